"""Small functions of tensors that several rules share."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_sqrt(v: Tensor) -> Tensor:
    """The square root. Its derivative at zero, which is infinite, is taken as zero."""
    if not torch.is_grad_enabled():
        return v.sqrt()
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, torch.ones_like(v)).sqrt(), torch.zeros_like(v))


def moved(p: Tensor, direction: Tensor, lr: float | Tensor) -> Tensor:
    """``p - lr * direction``. This takes one pass over memory if the rate is a number."""
    return p - lr * direction if isinstance(lr, Tensor) else torch.add(p, direction, alpha=-lr)


def counter(like: Tensor) -> Tensor:
    """A count of steps that begins at zero. It has at least float32, since half precision cannot count far."""
    return torch.zeros((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def later(rows: Tensor) -> Tensor:
    """Drop the first of the values ``[K, ...]`` of the coming steps. The last value is kept for all further steps."""
    return rows[1:] if len(rows) > 1 else rows
