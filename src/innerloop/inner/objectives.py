"""How an episode is scored: the weights of the inner loop's iterates in the meta-objective, and the accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from innerloop.parts import Part

__all__ = ["LastStep", "MultiStep", "Objective", "accuracies", "last_step", "multi_step"]

Objective = Callable[[int], tuple[float, ...]]
"""``steps K -> weights`` of the query losses at the iterates 0 to K. An iterate of weight 0 is not evaluated.

It is a plain function or an instance of a class below."""


@dataclass(frozen=True, repr=False)
class LastStep(Part):
    """The query loss after the last inner step (Finn et al., 2017, eq. 1).

    Example:
        >>> last_step(2)
        (0.0, 0.0, 1.0)
    """

    def __call__(self, steps: int) -> tuple[float, ...]:
        """The weights of the iterates 0 to ``steps``."""
        return (0.0,) * steps + (1.0,)


last_step = LastStep()
"""The objective that scores the last inner step only."""


@dataclass(frozen=True, repr=False)
class MultiStep(Part):
    r"""The query losses after every inner step, with weights that shift to the last step (MAML++).

    .. math:: w_k = \max\left(\frac{1 - p}{K}, \frac{0.03}{K}\right) \text{ for } k < K, \qquad
              w_K = 1 - \sum_{k < K} w_k

    Args:
        progress: p. At 0 all steps count alike. At 1 only the last step counts.

    Raises:
        ValueError: a negative progress.

    Example:
        >>> multi_step(0.0)(4), multi_step(0.5)(4), multi_step(1.0)(4)
        ((0.0, 0.25, 0.25, 0.25, 0.25), (0.0, 0.125, 0.125, 0.125, 0.625), (0.0, 0.0, 0.0, 0.0, 1.0))

    References:
        Antoniou, Edwards, Storkey: How to train your MAML. ICLR 2019, section 4 (MSL).
    """

    progress: float

    def __post_init__(self) -> None:
        if not self.progress >= 0:
            raise ValueError(f"progress is {self.progress}; it must be 0 or more")

    def __call__(self, steps: int) -> tuple[float, ...]:
        """The weights of the iterates 0 to ``steps``."""
        if self.progress >= 1 or steps == 0:
            return last_step(steps)
        early = max(1 - self.progress, 0.03) / steps
        return (0.0, *[early] * (steps - 1), 1 - early * (steps - 1))


multi_step = MultiStep
"""The usual name of :class:`MultiStep`."""


def accuracies(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """The fraction of correct predictions of each task.

    Args:
        outputs: logits ``[T, Q, C]``.
        targets: class indices ``[T, Q]``.

    Returns:
        ``[T]``, or None if the targets are not class indices (regression) or there are no queries.

    Example:
        >>> import torch
        >>> accuracies(torch.eye(2)[None], torch.tensor([[0, 0]]))
        tensor([0.5000])
    """
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1 or targets.shape[1] == 0:
        return None
    return (outputs.argmax(-1) == targets).float().mean(1)
