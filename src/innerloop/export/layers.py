"""Translations: softmax and normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence

from innerloop.export.errors import ExportError
from innerloop.export.graph import Size
from innerloop.export.sums import mean_of
from innerloop.export.translate import Context, Value, translates

__all__: list[str] = []


@translates("_softmax")
def _softmax(to: Context, x: Value, axis: int, half: bool = False) -> str:
    return to.op("Softmax", to.tensor(x), axis=x.axis(axis))


@translates("_log_softmax")
def _log_softmax(to: Context, x: Value, axis: int, half: bool = False) -> str:
    return to.op("LogSoftmax", to.tensor(x), axis=x.axis(axis))


@translates("_native_batch_norm_legit.no_stats", "native_batch_norm", "_native_batch_norm_legit")
def _batch_norm(
    to: Context, x: Value, weight: Value | None, bias: Value | None, *rest: Value | float | bool | None
) -> list[str]:
    *stored, training, _, eps = rest
    mean, var = stored or (None, None)
    if training and mean is not None:
        raise ExportError("a layer of batch norm updates stored statistics in the inner loop, which must not happen")
    if not training:
        return _stored_batch_norm(to, x, weight, bias, mean, var, 0.0, eps)
    found, mean_and_inverse = _normalised(to, x, [axis for axis in range(len(x.shape)) if axis != 1], eps)
    channels = to.graph.ints([-1])
    return [
        _scaled(to, found, x, weight, bias),
        *(to.op("Reshape", name, channels) for name in mean_and_inverse),
    ]


def _stored_batch_norm(
    to: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: object,
    var: object,
    momentum: object,
    eps: object,
) -> list[str]:
    if not isinstance(mean, Value) or not isinstance(var, Value) or not isinstance(eps, float):
        raise ExportError("a layer of batch norm has no stored statistics")
    spread = to.op("Sqrt", to.op("Add", var.name, to.number(eps)))
    off = to.op("Sub", x.name, _by_channel(to, mean.name, x))
    found = to.op("Div", off, _by_channel(to, spread, x))
    empty = to.graph.constant([], to.dtype)
    return [_scaled(to, found, x, weight, bias), empty, empty]


translates("_native_batch_norm_legit_no_training")(_stored_batch_norm)


@translates("native_layer_norm")
def _layer_norm(
    to: Context, x: Value, shape: Sequence[Size], weight: Value | None, bias: Value | None, eps: float
) -> list[str]:
    rank = len(x.shape)
    found, mean_and_inverse = _normalised(to, x, list(range(rank - len(shape), rank)), eps)
    if weight is not None:
        found = to.op("Mul", found, weight.name)
    return [found if bias is None else to.op("Add", found, bias.name), *mean_and_inverse]


@translates("native_group_norm")
def _group_norm(
    to: Context,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    examples: Size,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> list[str]:
    grouped = to.op("Reshape", x.name, to.graph.ints([examples, groups, -1]))
    found, mean_and_inverse = _normalised(to, Value(grouped, x.dtype, (None, groups, None)), [2], eps)
    whole = to.op("Reshape", found, to.shape_of(x))
    two = to.graph.ints([2])
    return [_scaled(to, whole, x, weight, bias), *(to.op("Squeeze", name, two) for name in mean_and_inverse)]


def _normalised(to: Context, x: Value, axes: Sequence[int], eps: object) -> tuple[str, list[str]]:
    """``(x - mean) / sqrt(var + eps)``; and the mean and the inverse of the root, whose axes have length 1."""
    if not isinstance(eps, float):
        raise ExportError(f"a normalisation layer has eps={eps!r}; it must be a number")
    mean = mean_of(to, x.name, x, axes)
    off = to.op("Sub", x.name, mean)
    var = mean_of(to, to.op("Mul", off, off), x, axes)
    inverse = to.op("Reciprocal", to.op("Sqrt", to.op("Add", var, to.number(eps))))
    return to.op("Mul", off, inverse), [mean, inverse]


def _scaled(to: Context, name: str, x: Value, weight: Value | None, bias: Value | None) -> str:
    """Multiply and shift each channel."""
    if weight is not None:
        name = to.op("Mul", name, _by_channel(to, weight.name, x))
    return name if bias is None else to.op("Add", name, _by_channel(to, bias.name, x))


def _by_channel(to: Context, name: str, x: Value) -> str:
    """A vector over the channels of ``x``, which are its second axis."""
    return to.op("Reshape", name, to.graph.ints([1, -1] + [1] * (len(x.shape) - 2)))
