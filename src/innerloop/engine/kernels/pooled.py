"""Batch norm, ReLU and max-pooling fused into one compiled kernel.

The images between these layers are never written. Only the convolution's output is kept. The kernels compute
derivatives up to second order. Higher ones come from the same formulas in PyTorch.
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
from innerloop.engine.kernels.normalisation import (
    NormCall,
    differentiable,
    gradient_formula,
    groups_each,
    of_inputs,
    sets_of,
)
from innerloop.engine.kernels.pooling import spread

__all__ = ["joinable", "max_pooled"]


def joinable(window: Window) -> bool:
    """Whether the windows lie side by side without gaps or overlaps. Only then can the kernels do the pooling."""
    plain = window.padding == (0, 0) and window.dilation == (1, 1) and window.kernel == window.stride
    return plain and prod(window.kernel) <= 254


def max_pooled(norm: NormCall, window: Window) -> Tensor:
    """Normalise images ``[..., N, C, H, W]``, apply ReLU, and take the largest value of each window."""
    output: Tensor = apply(_Output, *norm.tensors, norm.epsilon, window)
    return output


class _Output(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        epsilon: float,
        window: Window,
    ) -> Tensor:
        y = new_channels_last(x, (*x.shape[:-2], *window.output(x.shape[-2:])))
        picked = channels_last(torch.empty_like(y))
        chosen = torch.empty_like(picked, dtype=torch.uint8)
        geometry, each, sets = _sizes(x, scale, shift, window)
        outputs = (mean, inverse, y, chosen, picked)
        call("normalise_pool", x.dtype, geometry, each, epsilon, channels_last(x), *sets, *outputs)
        ctx.save_for_backward(x, scale, shift, mean, inverse, chosen, picked)
        ctx.options = epsilon, window
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        _, scale, shift, *_ = saved = ctx.saved_tensors
        return *of_inputs(apply(_Gradient, g, *saved, *ctx.options), scale, shift), *(None,) * 4


class _Gradient(Function):
    """The gradient of x, and each group's gradients of scale and shift ``[..., C]``. g is the output's gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        chosen: Tensor,
        picked: Tensor,
        epsilon: float,
        window: Window,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(g, x, scale, shift, mean, inverse, chosen, picked)
        ctx.options = epsilon, window
        gx, g_scale, g_shift = new_channels_last(x, x.shape), torch.empty_like(mean), torch.empty_like(mean)
        geometry, each, sets = _sizes(x, scale, shift, window)
        inputs = (channels_last(g), channels_last(x), *sets, mean, inverse, chosen, picked)
        call("normalise_pool_back", x.dtype, geometry, each, *inputs, gx, g_scale, g_shift)
        return gx, g_scale, g_shift

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        g, x, scale, shift, mean, inverse, chosen, picked = ctx.saved_tensors
        epsilon, window = ctx.options
        if torch.is_grad_enabled():

            def formula(g: Tensor, x: Tensor, *affine: Tensor | None) -> tuple[Tensor, ...]:
                up = spread(g, chosen, window, x.shape[-2:])
                return gradient_formula(up, x, *affine, epsilon=epsilon, relu=False, spatial=2)

            return *differentiable(formula, ctx.needs_input_grad, (g, x, scale, shift), (u, a, b)), *(None,) * 7
        gg, gx, g_scale = new_channels_last(g, g.shape), new_channels_last(x, x.shape), torch.empty_like(mean)
        geometry, each, sets = _sizes(x, scale, shift, window)
        inputs = (channels_last(u), a.contiguous(), b.contiguous(), channels_last(g), channels_last(x), *sets)
        call("normalise_pool_twice", x.dtype, geometry, each, *inputs, mean, inverse, chosen, picked, gg, gx, g_scale)
        return gg, gx, None if scale is None else g_scale.sum_to_size(scale.shape), *(None,) * 7


def _sizes(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, window: Window
) -> tuple[Geometry, int, Sequence[Tensor | None]]:
    """The geometry, the number of groups that share scale and shift, and these two."""
    *stack, images, channels, height, width = x.shape
    groups, sets = prod(stack), sets_of((scale, shift), stack)
    geometry = window.geometry(groups, images, (height, width), (channels, channels), False)
    return geometry, groups_each(groups, channels, sets), sets
