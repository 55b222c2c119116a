"""Training that went astray: what is not finite any more, and what to do then."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["DivergedError", "all_finite", "last_good"]


class DivergedError(RuntimeError):
    """The loss or the meta-gradient is not finite any more."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds an infinity or NaN.

    Example:
        >>> all_finite([torch.ones(2)]), all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
        (True, False)
    """
    return all(bool(torch.isfinite(tensor.sum())) for tensor in tensors)


def last_good(checkpoint: Path | None) -> str:
    """What to do when training has diverged, with the checkpoint that is left, if any."""
    advice = "try a smaller inner or outer learning rate"
    return advice if checkpoint is None else f"the last good checkpoint is {checkpoint}; {advice}"
