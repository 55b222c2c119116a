"""Batch norm of many tasks by compiled kernels. Each task is normalised with the statistics of its own batch.

A ReLU after it can be included. The kernels compute derivatives up to second order. Higher ones come from the same
formulas in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from innerloop.engine.kernels.layout import apply, contiguous, new_channels_last, own_axes
from innerloop.engine.kernels.library import call, place

__all__ = [
    "NormCall",
    "batch_norm",
    "differentiable",
    "gradient_formula",
    "groups_each",
    "of_inputs",
    "sets_of",
    "started",
]


@dataclass(frozen=True)
class NormCall:
    """Batch norm of images or vectors ``[..., N, C, *]``. The leading axes are tasks. Each is one group of statistics.

    Attributes:
        x: the input.
        scale: ``[..., C]``, with leading axes like those of the tasks or 1; None for no scale.
        shift: the same for the shift.
        epsilon: the number that is added to the variance.
        spatial: the number of axes after C.
        mean: the mean ``[..., C]`` of each group over N and the axes after C. It is valid once an output is written.
        inverse: the inverse standard deviation ``[..., C]`` of each group, valid at the same time.
    """

    x: Tensor
    scale: Tensor | None
    shift: Tensor | None
    epsilon: float
    spatial: int
    mean: Tensor
    inverse: Tensor

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All its tensors."""
        return self.x, self.scale, self.shift, self.mean, self.inverse


def started(x: Tensor, scale: Tensor | None, shift: Tensor | None, epsilon: float, spatial: int) -> NormCall:
    """A :class:`NormCall` whose statistics are not computed yet."""
    stack, channels = x.shape[: -2 - spatial], x.shape[-1 - spatial]
    strides = contiguous((*stack, channels))
    mean, inverse = (x.new_empty_strided((*stack, channels), strides) for _ in range(2))
    return NormCall(x, scale, shift, epsilon, spatial, mean, inverse)


def batch_norm(norm: NormCall, *, relu: bool = False) -> tuple[Tensor, Callable[[], None]]:
    """The output, scaled and shifted, with ReLU if wanted, and a function that writes its values."""
    writers: list[Callable[[], None]] = []
    output: Tensor = apply(_Output, *norm.tensors, norm.epsilon, relu, norm.spatial, writers)
    return output, writers[0]


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
        relu: bool,
        spatial: int,
        writers: list[Callable[[], None]],
    ) -> Tensor:
        rows, stack = _rows(x, spatial), x.shape[: -2 - spatial]
        y, sets = new_channels_last(x, x.shape, spatial), sets_of((scale, shift), stack)
        numbers = (*_sizes(rows, stack, sets), int(relu), epsilon)
        # The writer holds only y's address, so that it can be seen whether anything else holds y.
        writers.append(partial(call, "normalise", x.dtype, *numbers, rows, *sets, mean, inverse, place(y)))
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        ctx.options = epsilon, relu, spatial
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, g), *(None,) * 6


def _gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of x, scale and shift."""
    x, scale, shift, mean, inverse = ctx.saved_tensors
    return of_inputs(apply(_Gradient, g, x, scale, shift, mean, inverse, *ctx.options), scale, shift)


def of_inputs(
    gradients: tuple[Tensor, Tensor, Tensor], scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients of x, scale and shift. Those of scale and shift are summed over the groups that share them."""
    gx, g_scale, g_shift = gradients
    return (
        gx,
        None if scale is None else g_scale.sum_to_size(scale.shape),
        None if shift is None else g_shift.sum_to_size(shift.shape),
    )


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
        epsilon: float,
        relu: bool,
        spatial: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(g, x, scale, shift, mean, inverse)
        ctx.options = epsilon, relu, spatial
        rows, stack = _rows(x, spatial), x.shape[: -2 - spatial]
        gx, g_scale, g_shift = new_channels_last(x, x.shape, spatial), torch.empty_like(mean), torch.empty_like(mean)
        sets = sets_of((scale, shift), stack)
        numbers = (*_sizes(rows, stack, sets), int(relu))
        inputs = (_rows(g, spatial), rows, *sets, mean, inverse)
        call("normalise_back", x.dtype, *numbers, *inputs, gx, g_scale, g_shift)
        return gx, g_scale, g_shift

    @staticmethod
    def backward(ctx: Any, u: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        g, x, scale, shift, mean, inverse = ctx.saved_tensors
        epsilon, relu, spatial = ctx.options
        if torch.is_grad_enabled():
            formula = partial(gradient_formula, epsilon=epsilon, relu=relu, spatial=spatial)
            return *differentiable(formula, ctx.needs_input_grad, (g, x, scale, shift), (u, a, b)), *(None,) * 6
        rows, stack = _rows(x, spatial), x.shape[: -2 - spatial]
        gg, gx = (new_channels_last(x, x.shape, spatial) for _ in range(2))
        g_scale = torch.empty_like(mean)
        sets = sets_of((scale, shift), stack)
        numbers = (*_sizes(rows, stack, sets), int(relu))
        inputs = (_rows(u, spatial), a.contiguous(), b.contiguous(), _rows(g, spatial), rows, *sets)
        call("normalise_twice", x.dtype, *numbers, *inputs, mean, inverse, gg, gx, g_scale)
        return gg, gx, None if scale is None else g_scale.sum_to_size(scale.shape), *(None,) * 6


def differentiable(
    formula: Callable[..., tuple[Tensor, ...]],
    needed: Sequence[bool],
    inputs: tuple[Tensor | None, ...],
    cotangents: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """The gradients of g, x and scale, with a graph for higher derivatives. ``inputs`` are g, x, scale and shift."""
    # Views of the same values, so that the dependence of g on x is not counted here, too.
    g, x, scale, shift = (None if t is None else t.view_as(t) for t in inputs)
    wanted = {i: t for i, t in enumerate((g, x, scale)) if needed[i] and t is not None}
    outputs = formula(g, x, scale, shift)
    found = torch.autograd.grad(outputs, list(wanted.values()), cotangents, create_graph=True, allow_unused=True)
    grads: list[Tensor | None] = [None] * 3
    for i, grad in zip(wanted, found, strict=True):
        grads[i] = grad
    return grads


def gradient_formula(
    g: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, *, epsilon: float, relu: bool, spatial: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as :class:`_Gradient`, as operations of PyTorch."""
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


def sets_of(parameters: Sequence[Tensor | None], stack: Sequence[int]) -> tuple[Tensor | None, ...]:
    """Scale and shift, contiguous, both with the same leading axes, and as few of these as possible."""
    n = len(stack)
    own = max((own_axes(_distinct(p, n)) for p in parameters if p is not None), default=0)
    whole, first = (slice(None),) * own, (0,) * (n - own)
    return tuple(None if p is None else p[whole + first].expand(*stack[:own], -1).contiguous() for p in parameters)


def _distinct(p: Tensor, axes: int) -> list[int]:
    """The sizes of the first axes. An axis that repeats the same memory counts as 1."""
    return [1 if stride == 0 else size for size, stride in zip(p.shape[:axes], p.stride(), strict=False)]


def _sizes(rows: Tensor, stack: Sequence[int], sets: Sequence[Tensor | None]) -> tuple[int, int, int, int]:
    """The numbers of groups, of groups that share scale and shift, of rows in a group, and of channels."""
    groups, channels = prod(stack), rows.shape[-1]
    return groups, groups_each(groups, channels, sets), rows.numel() // (groups * channels), channels


def groups_each(groups: int, channels: int, sets: Sequence[Tensor | None]) -> int:
    """The number of groups that share one scale and shift."""
    return groups // max((p.numel() // channels for p in sets if p is not None), default=1)
