"""Diverged training: the check that tensors are finite, and the error with its advice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["DivergedError", "all_finite", "last_good"]


class DivergedError(RuntimeError):
    """The loss, the meta-gradient or a parameter became infinite or NaN."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds an infinity or NaN.

    Example:
        >>> all_finite([torch.ones(2)]), all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
        (True, False)
    """
    return all(bool(torch.isfinite(tensor.sum())) for tensor in tensors)


def last_good(checkpoint: Path | None) -> str:
    """Advice for diverged training. It names the last good checkpoint, if there is one."""
    advice = "try a smaller inner or outer learning rate"
    return advice if checkpoint is None else f"the last good checkpoint is {checkpoint}; {advice}"
