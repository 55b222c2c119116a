"""Cross entropy, written out as plain operations.

PyTorch also does this under ``vmap``. But the first time, it imports its symbolic shapes and SymPy. That takes a
second, and more memory than all tensors of a small network.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cross_entropy"]

_NO_LABEL = -100


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = _NO_LABEL,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor | None:
    """``F.cross_entropy`` of scores ``[N, C]`` and classes ``[N]``, or None if an option is not supported here.

    Example:
        >>> scores, classes = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
        >>> bool(torch.isclose(cross_entropy(scores, classes), torch.tensor(0.7201), atol=1e-4))
        True
    """
    plain = weight is None and size_average is None and reduce is None and label_smoothing == 0
    if not plain or reduction not in ("mean", "sum") or input.ndim != 2 or target.shape != input.shape[:1]:
        return None
    if target.dtype != torch.int64 or not input.is_floating_point() or not input.numel():
        return None
    counts = target != ignore_index
    classes = torch.where(counts, target, 0)
    losses = -torch.log_softmax(input, 1).gather(1, classes.unsqueeze(1)).squeeze(1)
    total = torch.where(counts, losses, 0).sum()
    return total if reduction == "sum" else total / counts.sum().to(total.dtype)
