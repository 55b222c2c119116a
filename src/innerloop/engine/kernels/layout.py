"""Where numbers lie in memory: images channels-last, weights ``[tap, in, out]``, tasks in front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

__all__ = [
    "apply",
    "by_task",
    "channels_last",
    "contiguous",
    "new_channels_last",
    "new_packed",
    "own_axes",
    "pack",
    "packable",
    "packed",
]


def apply(function: type[Function], *arguments: Any) -> Any:
    """``function.apply``, or its forward pass alone where no graph is wanted, which costs less to call."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_NoGraph(), *arguments)


class _NoGraph:
    """Stands for autograd's context."""

    def save_for_backward(self, *_: Tensor | None) -> None:
        """Nothing will be asked for."""

    def set_materialize_grads(self, _: bool) -> None:
        """Nor will there be gradients."""

    def mark_non_differentiable(self, *_: Tensor) -> None:
        """Nothing is differentiated."""


def channels_last(x: Tensor) -> Tensor:
    """Images ``[..., C, H, W]`` as contiguous ``[..., H, W, C]``, without a copy if they lie like that."""
    return x.movedim(-3, -1).contiguous()


def new_channels_last(like: Tensor, shape: Sequence[int], spatial: int = 2) -> Tensor:
    """Uninitialised ``[..., C, *]`` that lies in memory as ``[..., *, C]``; ``spatial`` counts the axes after C.

    It is no view: autograd forbids changing in place the views that a function of ours returns.
    """
    *stack, channels = shape[: len(shape) - spatial]
    strides = contiguous((*stack, *shape[len(shape) - spatial :], channels))
    outer = len(stack)
    return like.new_empty_strided(tuple(shape), (*strides[:outer], 1, *strides[outer:-1]))


def new_packed(like: Tensor, stack: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Uninitialised weights ``[..., O, I, kh, kw]`` that lie in memory as ``[..., kh, kw, I, O]``."""
    out, inside, height, width = shape
    *outer, of_height, of_width, of_inside, of_out = contiguous((*stack, height, width, inside, out))
    return like.new_empty_strided((*stack, *shape), (*outer, of_out, of_inside, of_height, of_width))


def contiguous(shape: Sequence[int]) -> list[int]:
    """The strides of a contiguous tensor."""
    strides = [1]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * size)
    return strides[::-1]


def own_axes(tasks_of_w: Sequence[int]) -> int:
    """How many leading axes tell the tasks of these weights apart: all up to the last that is not 1."""
    return max((axis + 1 for axis, size in enumerate(tasks_of_w) if size != 1), default=0)


def by_task(t: Tensor, stack: Sequence[int]) -> Tensor:
    """What each task has of a tensor whose leading axes are tasks, or 1: ``[T, ...]``; T is 1 where all share it."""
    n = len(stack)
    if all(t.shape[axis] == 1 or t.stride(axis) == 0 for axis in range(n)):
        return t[(0,) * n][None]
    own = own_axes(t.shape[:n])
    return t.expand(*stack[:own], *t.shape[own:]).reshape(prod(stack[:own]), *t.shape[n:])


def packed(w: Tensor, stack: Sequence[int]) -> tuple[Tensor, int, bool]:
    """Weights ``[..., O, I, kh, kw]`` for a stack of tasks, as contiguous ``[tasks, kh, kw, I, O]``.

    Returns:
        The weights, the number of tasks, and whether one set of weights serves them all.
    """
    w = by_task(w, stack)
    shared = len(w) == 1
    return w.permute(0, 3, 4, 2, 1).contiguous(), prod(stack) if shared else len(w), shared


def pack(w: Tensor) -> Tensor:
    """The same weights ``[O, I, kh, kw]``, lying in memory as the kernels want them."""
    return w.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def packable(module: nn.Module) -> Iterable[str]:
    """The names of the parameters that :func:`pack` is for."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            yield f"{name}.weight" if name else "weight"
