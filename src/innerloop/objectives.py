"""How an episode is scored: which iterates of the inner loop the meta-objective looks at, and accuracy."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "LossFn", "Objective", "accuracies", "last_step"]

LossFn = Callable[[Tensor, Tensor], Tensor]
"""``(outputs [N, ...], targets [N, ...]) -> scalar``, the mean over the examples of one task."""

LOSSES: dict[str, LossFn] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
"""The losses that a recipe or a saved learner names."""

Objective = Callable[[int], tuple[float, ...]]
"""``steps K -> weights`` of the query losses at the iterates 0..K; an iterate of weight 0 is not evaluated."""


def last_step(steps: int) -> tuple[float, ...]:
    """The query loss after the last inner step (Finn et al., 2017, eq. 1).

    Example:
        >>> last_step(2)
        (0.0, 0.0, 1.0)
    """
    return (0.0,) * steps + (1.0,)


def accuracies(outputs: Tensor, targets: Tensor) -> Tensor | None:
    """The fraction of right predictions of each task.

    Args:
        outputs: logits ``[T, Q, C]``.
        targets: class indices ``[T, Q]``.

    Returns:
        ``[T]``, or None where the targets are not class indices (regression) or there are no queries.

    Example:
        >>> import torch
        >>> accuracies(torch.eye(2)[None], torch.tensor([[0, 0]]))
        tensor([0.5000])
    """
    if targets.is_floating_point() or outputs.ndim != targets.ndim + 1 or targets.shape[1] == 0:
        return None
    return (outputs.argmax(-1) == targets).float().mean(1)
