"""Targets as a person has them: labels of any kind or numbers, what the network takes for them, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from innerloop.data import Scale
from innerloop.inner.losses import LossFn

__all__ = ["Answers", "Labels", "Numbers", "are_labels", "read_labels", "read_numbers", "score_of"]

Answers: TypeAlias = "Tensor | NDArray[Any]"
"""Predictions in the form of the targets of the support set: a tensor if these were a tensor, else a NumPy array."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a task's classes: the label of class index ``i`` is ``names[i]``."""

    names: Answers

    def __len__(self) -> int:
        return len(self.names)

    def of(self, indices: Tensor) -> Answers:
        """The labels of class indices ``[N]``."""
        if isinstance(self.names, Tensor):
            return self.names.to(indices.device)[indices]
        named: NDArray[Any] = self.names[indices.cpu().numpy()]
        return named

    @property
    def array(self) -> NDArray[Any]:
        """The labels as a NumPy array."""
        return self.names.cpu().numpy() if isinstance(self.names, Tensor) else self.names


@dataclass(frozen=True)
class Numbers:
    """The form of regression targets.

    Attributes:
        flat: whether the targets were ``[S]`` where the network has outputs ``[S, 1]``.
        tensor: whether they were a tensor.
        scale: how they were scaled; None if they were not.
    """

    flat: bool
    tensor: bool
    scale: Scale | None

    def of(self, outputs: Tensor) -> Answers:
        """Outputs of the network in the form and the units of the targets."""
        values = outputs if self.scale is None else self.scale.inverse(outputs)
        values = values.squeeze(-1) if self.flat else values
        return values if self.tensor else values.cpu().numpy()


def are_labels(y: Any, loss_fn: LossFn) -> bool:
    """Whether targets are labels of classes rather than numbers to predict.

    The loss decides if it is cross-entropy or the squared error. With another loss, floating-point targets are numbers.
    """
    if loss_fn is F.mse_loss:
        return False
    kind = y.dtype if isinstance(y, Tensor) else np.asarray(y).dtype
    floating = kind.is_floating_point if isinstance(kind, torch.dtype) else kind.kind == "f"
    if loss_fn is F.cross_entropy:
        return not floating or np.ndim(y) < 2
    return not floating


def read_labels(y: Any) -> tuple[Labels, Tensor]:
    """The distinct labels of a support set in sorted order, and the class index ``[S]`` of each example.

    Raises:
        ValueError: there is not one label for each example, one is missing, or texts and numbers are mixed.

    Example:
        >>> labels, indices = read_labels(["owl", "cat", "owl"])
        >>> labels.names.tolist(), indices
        (['cat', 'owl'], tensor([1, 0, 1]))
    """
    if isinstance(y, Tensor):
        _check_flat(y.shape)
        names, indices = y.unique(return_inverse=True)
        return Labels(names), indices
    array = _array_of_labels(y)
    try:
        names, indices = np.unique(array, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"the labels cannot be put in order ({error}); give texts or numbers") from error
    return Labels(names), torch.from_numpy(indices.reshape(-1).astype(np.int64))


def _array_of_labels(y: Any) -> NDArray[Any]:
    if isinstance(y, list | tuple):
        # NumPy would turn the numbers of a mixed list into texts.
        y = [each.item() if isinstance(each, Tensor) and each.ndim == 0 else each for each in y]
        if len({isinstance(each, str) for each in y}) > 1:
            raise ValueError("the labels are partly texts and partly something else; give labels of one kind")
    array = np.asarray(y)
    _check_flat(array.shape)
    if any(each is None or each != each for each in array.tolist()):  # noqa: PLR0124 - true of NaN only
        raise ValueError("a label is missing (None or NaN); leave out the examples without a label")
    return array


def _check_flat(shape: tuple[int, ...]) -> None:
    if len(shape) != 1:
        raise ValueError(f"the labels have the shape {list(shape)}; give one label for each example, [S]")


def read_numbers(y: Any, outputs: Tensor, scale: Scale | None) -> tuple[Numbers, Tensor]:
    """Regression targets as the network takes them.

    Args:
        y: the targets ``[S, ...]``.
        outputs: the network's outputs for the support set, whose shape and type the targets get.
        scale: how targets are scaled; None if they are not.

    Raises:
        ValueError: the targets are not finite numbers.
    """
    tensor = isinstance(y, Tensor)
    try:
        values = y if isinstance(y, Tensor) else torch.from_numpy(np.asarray(y, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"this learner was trained for regression, and the targets are not numbers ({error})"
        ) from None
    if not tensor and not bool(values.isfinite().all()):
        raise ValueError("a target is missing or infinite; leave out the examples without a finite target")
    flat = values.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] == 1
    values = values[:, None] if flat else values
    if scale is not None:
        values = scale(values.cpu()).reshape(values.shape)
    return Numbers(flat, tensor, scale), values.to(outputs)


def score_of(answers: Answers, y: Any, *, labels: Labels | None) -> float:
    """The share of right answers where there are labels, else the coefficient of determination, R².

    R² is 1 for perfect predictions and 0 for those no better than the mean of the targets. If all targets are equal,
    it is 1 or 0.

    Raises:
        ValueError: there is not one target for each answer, there are none, or the targets are of another kind.
    """
    given = y.cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    found = answers.cpu().numpy() if isinstance(answers, Tensor) else answers
    if given.shape != found.shape or not len(given):
        raise ValueError(
            f"there are targets of the shape {list(given.shape)} for predictions of the shape {list(found.shape)}; "
            "give one target for each query, and at least one"
        )
    if labels is not None:
        texts = [array.dtype.kind in "UO" for array in (given, found)]
        if given.dtype != found.dtype and texts[0] is not texts[1]:
            raise ValueError(f"the targets are {given.dtype} and the labels of the support set are {found.dtype}")
        return float(np.mean(given == found))
    rest, spread = float(((given - found) ** 2).sum()), float(((given - given.mean(0)) ** 2).sum())
    return 1 - rest / spread if spread else float(rest == 0)
