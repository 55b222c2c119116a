"""Memory layouts: images are channels-last, weights are ``[tap, in, out]``, and tasks come first."""

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
    """``function.apply``. Without a graph only its forward pass is called, which costs less."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(_NoGraph(), *arguments)


class _NoGraph:
    """Stands in for autograd's context."""

    def save_for_backward(self, *_: Tensor | None) -> None:
        """Do nothing: there is no backward pass."""

    def set_materialize_grads(self, _: bool) -> None:
        """Do nothing: there are no gradients."""

    def mark_non_differentiable(self, *_: Tensor) -> None:
        """Do nothing: nothing is differentiated."""


def channels_last(x: Tensor) -> Tensor:
    """Images ``[..., C, H, W]`` as contiguous ``[..., H, W, C]``. There is no copy if they lie so in memory."""
    return x.movedim(-3, -1).contiguous()


def new_channels_last(like: Tensor, shape: Sequence[int], spatial: int = 2) -> Tensor:
    """An uninitialised tensor ``[..., C, *]`` that lies in memory as ``[..., *, C]``.

    ``spatial`` counts the axes after C.

    It is not a view, because autograd forbids to change in place a view that a custom function returns.
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
    """The number of leading axes by which the tasks' weights differ: all up to the last axis that is not 1."""
    return max((axis + 1 for axis, size in enumerate(tasks_of_w) if size != 1), default=0)


def by_task(t: Tensor, stack: Sequence[int]) -> Tensor:
    """Flatten the leading axes, which are tasks or 1, to one: ``[T, ...]``. T is 1 if all tasks share the tensor."""
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
    """The same weights ``[O, I, kh, kw]``, in the memory layout of the kernels."""
    return w.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def packable(module: nn.Module) -> Iterable[str]:
    """The names of the parameters that :func:`pack` can convert: weights of convolutions without groups."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            yield f"{name}.weight" if name else "weight"
