"""Translations: convolutions, pooling, and their gradients, which are convolutions too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from innerloop.export.errors import ExportError
from innerloop.export.translate import Context, Value, translates

__all__: list[str] = []


def _each(numbers: Sequence[int], count: int) -> list[int]:
    """One number for each axis of space. One number alone stands for all."""
    return list(numbers) * (count if len(numbers) == 1 else 1)


@translates("convolution")
def _convolution(
    to: Context,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> str:
    space = len(x.shape) - 2
    layout = {
        "strides": _each(stride, space),
        "pads": _each(padding, space) * 2,
        "dilations": _each(dilation, space),
        "group": groups,
    }
    added = None if bias is None else bias.name
    if transposed:
        return to.op("ConvTranspose", x.name, weight.name, added, output_padding=_each(output_padding, space), **layout)
    return to.op("Conv", x.name, weight.name, added, **layout)


@translates("convolution_backward")
def _convolution_backward(
    to: Context,
    grad: Value,
    x: Value,
    weight: Value,
    bias_shape: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> list[str]:
    if transposed:
        raise ExportError("the gradient of a transposed convolution is not translated; use another network")
    space = len(x.shape) - 2
    stride, padding, dilation = (_each(numbers, space) for numbers in (stride, padding, dilation))
    nothing = to.graph.constant([], grad.dtype)
    found = [nothing] * 3
    axes = list(range(2, 2 + space))
    inside, outside = x.fixed("a convolution", axes), grad.fixed("a convolution", axes)
    kernel = weight.fixed("a convolution", axes)
    if wanted[0]:
        reached = [
            (o - 1) * s - 2 * p + d * (k - 1) + 1
            for o, s, p, d, k in zip(outside, stride, padding, dilation, kernel, strict=True)
        ]
        rest = [i - r for i, r in zip(inside, reached, strict=True)]
        found[0] = to.op(
            "ConvTranspose",
            grad.name,
            weight.name,
            strides=stride,
            pads=padding * 2,
            dilations=dilation,
            group=groups,
            output_padding=rest,
        )
    if wanted[1]:
        found[1] = _of_weight(to, grad, x, kernel, (stride, padding, dilation), groups)
    if wanted[2]:
        found[2] = to.op("ReduceSum", grad.name, to.graph.ints([0, *axes]), keepdims=0)
    return found


def _of_weight(
    to: Context, grad: Value, x: Value, kernel: list[int], layout: tuple[list[int], list[int], list[int]], groups: int
) -> str:
    """The gradient of the kernel: the inputs convolved with the gradients of the outputs, over examples and space.

    The examples take the place of the channels, and stride and dilation change places. With groups the examples of each
    group are channels of its own.
    """
    stride, padding, dilation = layout
    ints, space = to.graph.ints, list(range(2, 2 + len(kernel)))
    if groups == 1:
        swap = [1, 0, *space]
        images, kernels = (to.op("Transpose", value.name, perm=swap) for value in (x, grad))
    else:
        each = x.fixed("a convolution", [1])[0] // groups
        size = x.fixed("a convolution", space)
        split = to.op("Reshape", x.name, ints([-1, groups, each, *size]))
        moved = to.op("Transpose", split, perm=[2, 1, 0, *(axis + 1 for axis in space)])
        images = to.op("Reshape", moved, ints([each, -1, *size]))
        kernels = to.op("Transpose", grad.name, perm=[1, 0, *space])
    wide = to.op(
        "Conv", images, kernels, strides=dilation, pads=padding * 2, dilations=stride, group=groups
    )  # with the rest of a stride that does not divide the image, this is wider than the kernel
    cut = to.op("Slice", wide, ints([0] * len(space)), ints(kernel), ints(space))
    return to.op("Transpose", cut, perm=[1, 0, *space])


@translates("max_pool2d_with_indices")
def _max_pool(
    to: Context,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> list[str]:
    return to.graph.ops(
        "MaxPool",
        2,
        x.name,
        kernel_shape=_each(kernel, 2),
        strides=_each(stride or kernel, 2),
        pads=_each(padding, 2) * 2,
        dilations=_each(dilation, 2),
        ceil_mode=int(ceil_mode),
    )


@translates("max_pool2d_with_indices_backward")
def _max_pool_backward(
    to: Context,
    grad: Value,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    places: Value,
) -> str:
    # ONNX counts places over the whole tensor, where PyTorch counts within an image. So they fit into this sum only.
    flat = to.graph.ints([-1])
    shape = to.shape_of(x)
    size = to.op("ReduceProd", shape, to.graph.ints([0]), keepdims=1)
    zeros = to.op("Expand", to.number(0), size)
    values, where = (to.op("Reshape", value.name, flat) for value in (grad, places))
    return to.op("Reshape", to.op("ScatterElements", zeros, where, values, axis=0, reduction="add"), shape)


@translates("avg_pool2d")
def _avg_pool(
    to: Context,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> str:
    _check_average(padding, ceil_mode, divisor)
    return to.op("AveragePool", x.name, kernel_shape=_each(kernel, 2), strides=_each(stride or kernel, 2))


@translates("avg_pool2d_backward")
def _avg_pool_backward(
    to: Context,
    grad: Value,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> str:
    _check_average(padding, ceil_mode, divisor)
    kernel, stride = _each(kernel, 2), _each(stride or kernel, 2)
    inside, outside = x.fixed("pooling", [-2, -1]), grad.fixed("pooling", [-2, -1])
    rest = [i - ((o - 1) * s + k) for i, o, s, k in zip(inside, outside, stride, kernel, strict=True)]
    alone = to.op("Reshape", grad.name, to.graph.ints([-1, 1, *outside]))
    share = to.graph.constant([[[[1 / math.prod(kernel)] * kernel[1]] * kernel[0]]], to.dtype)
    spread = to.op("ConvTranspose", alone, share, strides=stride, output_padding=rest)
    return to.op("Reshape", spread, to.shape_of(x))


def _check_average(padding: Sequence[int], ceil_mode: bool, divisor: int | None) -> None:
    if any(padding) or ceil_mode or divisor is not None:
        raise ExportError(
            "average pooling is translated without padding, ceil_mode and divisor_override only; use it so"
        )
