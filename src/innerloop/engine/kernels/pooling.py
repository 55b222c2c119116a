"""Max-pooling of channels-last images by compiled kernels.

The choice of the pixel that a window takes is a constant. With that, pooling and its gradient are linear, and each
other's derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from innerloop.engine.kernels.convolution import Window
from innerloop.engine.kernels.layout import apply, channels_last, new_channels_last
from innerloop.engine.kernels.library import Geometry, call

__all__ = ["max_pool", "spread"]


def max_pool(x: Tensor, window: Window) -> Tensor:
    """The largest value of each window of images ``[..., C, H, W]``."""
    output: Tensor = apply(_Output, x, window)
    return output


def spread(g: Tensor, chosen: Tensor, window: Window, size: Sequence[int]) -> Tensor:
    """Put each value at the pixel that its window took, in images of this size. A tap outside the image takes none."""
    images: Tensor = apply(_Spread, g, chosen, window, size)
    return images


class _Output(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        y = new_channels_last(x, (*x.shape[:-2], *window.output(x.shape[-2:])))
        chosen = torch.empty_like(channels_last(y), dtype=torch.uint8)
        call("pool", x.dtype, _geometry(window, x.shape), channels_last(x), y, chosen)
        ctx.save_for_backward(chosen)
        ctx.window, ctx.size = window, x.shape[-2:]
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (chosen,) = ctx.saved_tensors
        return spread(g, chosen, ctx.window, ctx.size), None


class _Spread(Function):
    """The gradient of the input: each value goes to the pixel that its window took."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, chosen: Tensor, window: Window, size: Sequence[int]) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.window = window
        x = new_channels_last(g, (*g.shape[:-2], *size))
        call("pool_linear", g.dtype, _geometry(window, x.shape), 1, chosen, x, channels_last(g))
        return x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        return apply(_Taken, u, *ctx.saved_tensors, ctx.window), None, None, None


class _Taken(Function):
    """The values of the pixels that the windows took."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, chosen: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.window, ctx.size = window, u.shape[-2:]
        y = new_channels_last(u, (*u.shape[:-2], *window.output(u.shape[-2:])))
        call("pool_linear", u.dtype, _geometry(window, u.shape), 0, chosen, channels_last(u), y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (chosen,) = ctx.saved_tensors
        return spread(g, chosen, ctx.window, ctx.size), None, None


def _geometry(window: Window, shape: Sequence[int]) -> Geometry:
    *stack, channels, height, width = shape
    return window.geometry(1, prod(stack), (height, width), (channels, channels), False)
