"""Arithmetic that stays differentiable where the plain form is not; shared by the rules."""

from __future__ import annotations

import torch
from torch import Tensor


def safe_sqrt(v: Tensor) -> Tensor:
    """The square root, with a derivative of zero at zero, where the true one is infinite."""
    if not torch.is_grad_enabled():
        return v.sqrt()
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, torch.ones_like(v)).sqrt(), torch.zeros_like(v))


def moved(p: Tensor, direction: Tensor, lr: float | Tensor) -> Tensor:
    """``p - lr * direction``, in one pass over memory if the rate is a number."""
    return p - lr * direction if isinstance(lr, Tensor) else torch.add(p, direction, alpha=-lr)


def counter(like: Tensor) -> Tensor:
    """A count of steps, zero at first; at least float32, so that it can count beyond what a half can."""
    return torch.zeros((), dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def later(rows: Tensor) -> Tensor:
    """Of a value for each step from now on ``[K, ...]``, those from the next step on; the last one stays."""
    return rows[1:] if len(rows) > 1 else rows
