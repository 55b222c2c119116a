"""Convolutions of many tasks by compiled kernels. Each task has its own weights.

A convolution is bilinear in its input and its weights. So are its two gradients, and the three are each other's
derivatives. Let F(x, w) be the output, X(g, w) the gradient of the input, and W(x, g) the gradient of the weights. Then

    dF = (X(g, w), W(x, g)),   dX = (F(u, w), W(u, g)),   dW = (X(g, v), F(x, v)),

which gives derivatives of every order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor
from torch.autograd import Function

from innerloop.engine.kernels.layout import apply, channels_last, new_channels_last, new_packed, own_axes, packed
from innerloop.engine.kernels.library import Geometry, call

__all__ = ["Window", "convolve"]


@dataclass(frozen=True)
class Window:
    """The kernel size, stride, padding and dilation of a convolution or pooling, each as (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output(self, size: Sequence[int]) -> tuple[int, int]:
        """The height and width of the output for an input of this height and width."""
        height, width = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return height, width

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - a window is a few numbers
    def geometry(self, tasks: int, images: int, size: Sequence[int], channels: Sequence[int], shared: bool) -> Geometry:
        """The description of this window over a stack of images, for the C code."""
        sizes = (*self.kernel, *self.stride, *self.padding, *self.dilation, *self.output(size))
        return Geometry(tasks, images, *size, *channels, *sizes, shared)


def convolve(x: Tensor, w: Tensor, window: Window) -> Tensor:
    """Convolve images ``[..., N, C, H, W]`` with the weights ``[..., O, C, kh, kw]`` of their task.

    The leading axes are tasks. In the weights they may be 1.
    """
    output: Tensor = apply(_Output, x, w, window)
    return output


class _Output(Function):
    """The output, F(x, w)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.window = window
        y = new_channels_last(x, (*x.shape[:-3], w.shape[-4], *window.output(x.shape[-2:])))
        weights, tasks, shared = packed(w, x.shape[:-4])
        images = prod(x.shape[:-3]) // tasks
        geometry = window.geometry(tasks, images, x.shape[-2:], (x.shape[-3], w.shape[-4]), shared)
        call("convolve", x.dtype, geometry, channels_last(x), weights, y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        gx = apply(_InputGradient, g, w, ctx.window, x.shape[-2:]) if ctx.needs_input_grad[0] else None
        gw = apply(_WeightGradient, x, g, ctx.window, w.shape[:-4]) if ctx.needs_input_grad[1] else None
        return gx, gw, None


class _InputGradient(Function):
    """The gradient of the input, X(g, w)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, window: Window, size: Sequence[int]) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.window = window
        x = new_channels_last(g, (*g.shape[:-3], w.shape[-3], *size))
        weights, tasks, shared = packed(w, g.shape[:-4])
        images = prod(g.shape[:-3]) // tasks
        geometry = window.geometry(tasks, images, size, (w.shape[-3], w.shape[-4]), shared)
        call("input_gradient", g.dtype, geometry, channels_last(g), weights, x)
        return x

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        g, w = ctx.saved_tensors
        gg = apply(_Output, u, w, ctx.window) if ctx.needs_input_grad[0] else None
        gw = apply(_WeightGradient, u, g, ctx.window, w.shape[:-4]) if ctx.needs_input_grad[1] else None
        return gg, gw, None, None


class _WeightGradient(Function):
    """The gradient of the weights, W(x, g), summed over the leading axes that the weights do not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, window: Window, tasks_of_w: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.window = window
        n, own = len(tasks_of_w), own_axes(tasks_of_w)
        stack = (*x.shape[:own], *(1,) * (n - own))
        w = new_packed(x, stack, (g.shape[-3], x.shape[-3], *window.kernel))
        images = prod(x.shape[:-3]) // prod(stack)
        geometry = window.geometry(prod(stack), images, x.shape[-2:], (x.shape[-3], g.shape[-3]), False)
        call("weight_gradient", x.dtype, geometry, channels_last(x), channels_last(g), w)
        return w if stack == tuple(tasks_of_w) else w.sum_to_size((*tasks_of_w, *w.shape[n:]))

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        x, g = ctx.saved_tensors
        gx = apply(_InputGradient, g, v, ctx.window, x.shape[-2:]) if ctx.needs_input_grad[0] else None
        gg = apply(_Output, x, v, ctx.window) if ctx.needs_input_grad[1] else None
        return gx, gg, None, None
