"""Batch norm of many tasks, each by the statistics of its own batch, as compiled kernels to second order.

ReLU after it may be part of it. Derivatives of third order and above come from the same formulas in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from innerloop.taskwise.layout import apply, new_channels_last, own_axes
from innerloop.taskwise.library import call

__all__ = ["batch_norm", "with_relu"]


def batch_norm(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, epsilon: float, spatial: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise ``[..., N, C, *]`` over N and the ``spatial`` axes after C, then scale and shift by ``[..., C]``.

    The leading axes are tasks; those of scale and shift may be 1.

    Returns:
        The output, and the mean and the inverse standard deviation of each group, ``[..., C]``.
    """
    outputs: tuple[Tensor, Tensor, Tensor] = apply(_Output, x, scale, shift, epsilon, spatial)
    return outputs


def with_relu(
    normalised: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    epsilon: float,
    spatial: int,
) -> Tensor:
    """ReLU of what :func:`batch_norm` gave, differentiated together with it in fewer passes over memory."""
    y, mean, inverse = normalised
    output: Tensor = apply(_WithReLU, x, scale, shift, epsilon, spatial, y.detach(), mean, inverse)
    return output


class _Output(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, epsilon: float, spatial: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(x, spatial)
        y, stack = new_channels_last(x, x.shape, spatial), x.shape[: -2 - spatial]
        mean, inverse = (x.new_empty((*stack, rows.shape[-1])) for _ in range(2))
        sets = _sets((scale, shift), stack)
        call("normalise", x.dtype, *_sizes(rows, stack, sets), 0, epsilon, rows, *sets, mean, inverse, y)
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        ctx.mark_non_differentiable(mean, inverse)
        ctx.options = epsilon, False, spatial
        return y, mean, inverse

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, g), None, None


class _WithReLU(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        epsilon: float,
        spatial: int,
        y: Tensor,
        mean: Tensor,
        inverse: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        ctx.options = epsilon, True, spatial
        return y.relu()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, g), *(None,) * 5


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of x, scale and shift."""
    x, scale, shift, mean, inverse = ctx.saved_tensors
    gx, g_scale, g_shift = apply(_Gradient, g, x, scale, shift, mean, inverse, *ctx.options)
    return (
        gx,
        None if scale is None else g_scale.sum_to_size(scale.shape),
        None if shift is None else g_shift.sum_to_size(shift.shape),
    )


class _Gradient(Function):
    """The gradients of x, and for each group of scale and shift ``[..., C]``, from the gradient g of the output."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        mean: Tensor,
        inverse: Tensor,
        epsilon: float,
        relu: bool,
        spatial: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(g, x, scale, shift, mean, inverse)
        ctx.options = epsilon, relu, spatial
        rows, stack = _rows(x, spatial), x.shape[: -2 - spatial]
        gx, g_scale, g_shift = new_channels_last(x, x.shape, spatial), torch.empty_like(mean), torch.empty_like(mean)
        sets = _sets((scale, shift), stack)
        numbers = (*_sizes(rows, stack, sets), int(relu))
        inputs = (_rows(g, spatial), rows, *sets, mean, inverse)
        call("normalise_back", x.dtype, *numbers, *inputs, gx, g_scale, g_shift)
        return gx, g_scale, g_shift

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        g, x, scale, shift, mean, inverse = ctx.saved_tensors
        _, relu, spatial = ctx.options
        if torch.is_grad_enabled():
            return _differentiable(ctx.needs_input_grad, (g, x, scale, shift), ctx.options, (u, a, b))
        rows, stack = _rows(x, spatial), x.shape[: -2 - spatial]
        gg, gx = (new_channels_last(x, x.shape, spatial) for _ in range(2))
        g_scale = torch.empty_like(mean)
        sets = _sets((scale, shift), stack)
        numbers = (*_sizes(rows, stack, sets), int(relu))
        inputs = (_rows(u, spatial), a.contiguous(), b.contiguous(), _rows(g, spatial), rows, *sets)
        call("normalise_twice", x.dtype, *numbers, *inputs, mean, inverse, gg, gx, g_scale)
        return gg, gx, None if scale is None else g_scale.sum_to_size(scale.shape), *(None,) * 6


def _differentiable(
    needed: Sequence[bool], inputs: tuple[Tensor | None, ...], options: tuple[Any, ...], cotangents: tuple[Tensor, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of g, x and scale once more, with a graph of their own."""
    # New names for the same values, so that what g owes to x is not counted here too.
    g, x, scale, shift = (None if t is None else t.view_as(t) for t in inputs)
    assert g is not None
    assert x is not None
    outputs = _gradient_formula(g, x, scale, shift, *options)
    wanted = {i: t for i, t in enumerate((g, x, scale)) if needed[i] and t is not None}
    found = torch.autograd.grad(outputs, list(wanted.values()), cotangents, create_graph=True, allow_unused=True)
    grads: list[Tensor | None] = [None] * 9
    for i, grad in zip(wanted, found, strict=True):
        grads[i] = grad
    return tuple(grads)


def _gradient_formula(
    g: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, epsilon: float, relu: bool, spatial: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What :class:`_Gradient` computes, in PyTorch."""
    channel = -1 - spatial
    dims = [channel - 1, *range(channel + 1, 0)]

    def mean(t: Tensor) -> Tensor:
        return t.mean(dims, keepdim=True)

    def broadcast(t: Tensor) -> Tensor:
        return t.unsqueeze(-2)[(..., *(None,) * spatial)]

    centred = x - mean(x)
    inverse = (mean(centred * centred) + epsilon).rsqrt()
    normal, factor = centred * inverse, inverse if scale is None else inverse * broadcast(scale)
    if relu:
        before = centred * factor + (0 if shift is None else broadcast(shift))
        g = torch.where(before <= 0, 0, g)
    gx = factor * (g - mean(g) - normal * mean(g * normal))
    return gx, (g * normal).sum(dims), g.sum(dims)


def _rows(x: Tensor, spatial: int) -> Tensor:
    """``[..., N, C, *]`` as contiguous ``[..., N, *, C]``."""
    return x.movedim(-1 - spatial, -1).contiguous()


def _sets(parameters: Sequence[Tensor | None], stack: Sequence[int]) -> tuple[Tensor | None, ...]:
    """Scale and shift, contiguous, with the same leading axes, of which there are no more than needed."""
    own = max((own_axes(p.shape[:-1]) for p in parameters if p is not None), default=0)
    return tuple(None if p is None else p.expand(*stack[:own], *p.shape[own:]).contiguous() for p in parameters)


def _sizes(rows: Tensor, stack: Sequence[int], sets: Sequence[Tensor | None]) -> tuple[int, int, int, int]:
    """Groups, groups of the same scale and shift, rows of a group, and channels."""
    groups, channels = prod(stack), rows.shape[-1]
    count = max((p.numel() // channels for p in sets if p is not None), default=1)
    return groups, groups // count, rows.numel() // (groups * channels), channels
