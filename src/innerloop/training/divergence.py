"""Diverged training: the check that tensors are finite, and the error with its advice."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["DivergedError", "advise", "all_finite"]


class DivergedError(RuntimeError):
    """The loss, the meta-gradient or a parameter became infinite or NaN."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds an infinity or NaN.

    Example:
        >>> all_finite([torch.ones(2)]), all_finite([torch.ones(2), torch.tensor([1.0, float("nan")])])
        (True, False)
    """
    return all(bool(torch.isfinite(tensor.sum())) for tensor in tensors)


def advise(error: DivergedError, checkpoint: Path | None) -> None:
    """Add advice to the message of an error. The error keeps its type, its notes and its traceback.

    Args:
        error: the error.
        checkpoint: the last good checkpoint, if there is one.

    Example:
        >>> error = DivergedError("the loss became infinite")
        >>> advise(error, None)
        >>> str(error)
        'the loss became infinite; try a smaller inner or outer learning rate'
    """
    left = "" if checkpoint is None else f"the last good checkpoint is {checkpoint}; "
    error.args = (f"{error}; {left}try a smaller inner or outer learning rate",)
