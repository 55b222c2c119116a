"""Where numbers lie in memory: images channels-last, weights ``[tap, in, out]``, tasks in front."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from torch import Tensor, nn

__all__ = ["channels_last", "new_channels_last", "own_axes", "pack", "packable", "packed"]


def channels_last(x: Tensor) -> Tensor:
    """Images ``[..., C, H, W]`` as contiguous ``[..., H, W, C]``, without a copy if they lie like that."""
    return x.movedim(-3, -1).contiguous()


def new_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised images ``[..., C, H, W]`` that lie in memory as ``[..., H, W, C]``."""
    *stack, channels, height, width = shape
    return like.new_empty((*stack, height, width, channels)).movedim(-1, -3)


def own_axes(tasks_of_w: Sequence[int]) -> int:
    """How many leading axes tell the tasks of these weights apart: all up to the last that is not 1."""
    return max((axis + 1 for axis, size in enumerate(tasks_of_w) if size != 1), default=0)


def packed(w: Tensor, stack: Sequence[int]) -> tuple[Tensor, int, bool]:
    """Weights ``[..., O, I, kh, kw]`` for a stack of tasks, as contiguous ``[tasks, kh, kw, I, O]``.

    Returns:
        The weights, the number of tasks, and whether one set of weights serves them all.
    """
    n = w.ndim - 4
    shared = all(w.shape[axis] == 1 or w.stride(axis) == 0 for axis in range(n))
    own = own_axes(w.shape[:n])
    if shared:
        w, own = w[(slice(0, 1),) * n], n
    else:
        w = w.expand(*stack[:own], *w.shape[own:])
    return w.permute(*range(n), n + 2, n + 3, n + 1, n).contiguous(), prod(stack[:own]), shared


def pack(w: Tensor) -> Tensor:
    """The same weights ``[O, I, kh, kw]``, lying in memory as the kernels want them."""
    return w.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)


def packable(module: nn.Module) -> Iterable[str]:
    """The names of the parameters that :func:`pack` is for."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            yield f"{name}.weight" if name else "weight"
