"""Translations: operators that make tensors, and that move, cut and join them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from innerloop.export.errors import ExportError
from innerloop.export.graph import Scalar, Size
from innerloop.export.translate import Context, Value, translates

__all__: list[str] = []

END = 2**62
"""Beyond the end of every axis."""


@translates("view", "_unsafe_view", "reshape")
def _view(to: Context, x: Value, shape: Sequence[Size]) -> str:
    return to.op("Reshape", x.name, to.graph.ints(shape), allowzero=int(-1 not in shape))


@translates("expand")
def _expand(to: Context, x: Value, shape: Sequence[Size], *, implicit: bool = False) -> str:
    return to.op("Expand", x.name, to.graph.ints([1 if length == -1 else length for length in shape]))


@translates("unsqueeze")
def _unsqueeze(to: Context, x: Value, axis: int) -> str:
    return to.op("Unsqueeze", x.name, to.graph.ints([axis]))


@translates("squeeze")
def _squeeze(to: Context, x: Value, axes: int | Sequence[int] | None = None) -> str:
    chosen = range(len(x.shape)) if axes is None else [axes] if isinstance(axes, int) else axes
    ones = [x.axis(axis) for axis in chosen if x.shape and x.shape[axis] == 1]
    return to.op("Squeeze", x.name, to.graph.ints(ones)) if ones else x.name


@translates("permute")
def _permute(to: Context, x: Value, axes: Sequence[int]) -> str:
    return to.op("Transpose", x.name, perm=[x.axis(axis) for axis in axes])


@translates("t", "transpose")
def _transpose(to: Context, x: Value, first: int = 0, second: int = 1) -> str:
    order = list(range(len(x.shape)))
    if len(order) < 2:
        return x.name
    one, other = x.axis(first), x.axis(second)
    order[one], order[other] = order[other], order[one]
    return to.op("Transpose", x.name, perm=order)


@translates("select.int")
def _select(to: Context, x: Value, axis: int, index: Size) -> str:
    return to.op("Gather", x.name, to.tensor(index, torch.int64), axis=x.axis(axis))


@translates("slice.Tensor")
def _slice(
    to: Context, x: Value, axis: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
) -> str:
    return _cut(to, x.name, x.axis(axis), 0 if start is None else start, END if end is None else end, step)


@translates("slice_scatter")
def _slice_scatter(
    to: Context, x: Value, src: Value, axis: int = 0, start: Size | None = None, end: Size | None = None, step: int = 1
) -> str:
    if step != 1:
        raise ExportError("the computation writes to every second element or fewer of an axis; this is not translated")
    at = x.axis(axis)
    before = _cut(to, x.name, at, 0, 0 if start is None else start)
    after = _cut(to, x.name, at, END if end is None else end, END)
    return to.op("Concat", before, to.tensor(src), after, axis=at)


@translates("select_scatter")
def _select_scatter(to: Context, x: Value, src: Value, axis: int, index: int) -> str:
    at = x.axis(axis)
    middle = to.op("Unsqueeze", to.tensor(src), to.graph.ints([at]))
    after = _cut(to, x.name, at, END if index == -1 else index + 1, END)
    return to.op("Concat", _cut(to, x.name, at, 0, index), middle, after, axis=at)


def _cut(to: Context, name: str, axis: int, start: Size, end: Size, step: int = 1) -> str:
    ints = to.graph.ints
    return to.op("Slice", name, ints([start]), ints([end]), ints([axis]), ints([step]))


@translates("flip")
def _flip(to: Context, x: Value, axes: Sequence[int]) -> str:
    ints, count = to.graph.ints, len(axes)
    chosen = [x.axis(axis) for axis in axes]
    return to.op("Slice", x.name, ints([-1] * count), ints([-END] * count), ints(chosen), ints([-1] * count))


@translates("cat")
def _cat(to: Context, parts: Sequence[Value], axis: int = 0) -> str:
    return to.op("Concat", *[to.tensor(part) for part in parts], axis=to.results[0].axis(axis))


@translates("split_with_sizes")
def _split(to: Context, x: Value, lengths: Sequence[Size], axis: int = 0) -> list[str]:
    return to.graph.ops("Split", len(to.results), x.name, to.graph.ints(lengths), axis=x.axis(axis))


@translates("copy")
def _copy(to: Context, x: Value, src: Value, *_: Any) -> str:
    return to.op("Expand", to.tensor(src), to.shape_of(x))


@translates("constant_pad_nd")
def _pad(to: Context, x: Value, pad: Sequence[int], value: float = 0) -> str:
    rank, count = len(x.shape), len(pad) // 2
    before, after = [0] * rank, [0] * rank
    for i in range(count):
        before[rank - 1 - i], after[rank - 1 - i] = pad[2 * i : 2 * i + 2]
    return to.op("Pad", to.tensor(x), to.graph.ints([*before, *after]), to.number(value))


@translates("empty_permuted")
def _empty(to: Context, shape: Sequence[Size], order: Sequence[int], **_: Any) -> str:
    return to.op("Expand", to.number(0), to.graph.ints(shape))


@translates("full")
def _full(to: Context, shape: Sequence[Size], value: Size, **_: Any) -> str:
    return to.op("Expand", to.tensor(value), to.graph.ints(shape))


@translates("full_like")
def _full_like(to: Context, x: Value, value: Size, **_: Any) -> str:
    return to.op("Expand", to.tensor(value), to.shape_of(x))


@translates("scalar_tensor")
def _scalar_tensor(to: Context, value: Size, **_: Any) -> str:
    return to.tensor(value)


@translates("arange.start_step")
def _arange(to: Context, start: Size, end: Size, step: Size = 1, **_: Any) -> str:
    numbers: list[Any] = [start, end, step]
    if any(isinstance(number, Scalar) for number in numbers):
        return to.op("Range", *(to.tensor(number) for number in numbers))
    return to.number(np.arange(*numbers).tolist())  # in any type; ONNX's operator has few


@translates("triu_indices")
def _triu_indices(to: Context, rows: int, columns: int, offset: int = 0, **_: Any) -> str:
    return to.graph.constant(torch.triu_indices(rows, columns, offset))


@translates("diagonal")
def _diagonal(to: Context, x: Value, offset: int = 0, first: int = 0, second: int = 1) -> str:
    if offset or sorted((x.axis(first), x.axis(second))) != [len(x.shape) - 2, len(x.shape) - 1]:
        raise ExportError("the computation takes a diagonal other than the main one of the last two axes")
    rows, columns = x.fixed("a diagonal", [-2, -1])
    short = min(rows, columns)
    kept = _cut(to, _cut(to, x.name, len(x.shape) - 2, 0, short), len(x.shape) - 1, 0, short)
    on_it = to.graph.constant(np.eye(short, dtype=bool))
    return to.op("ReduceSum", to.op("Where", on_it, kept, to.number(0)), to.graph.ints([-1]), keepdims=0)


@translates("tril")
def _tril(to: Context, x: Value, diagonal: int = 0) -> str:
    return to.op("Trilu", x.name, to.graph.constant(np.array(diagonal, np.int64)), upper=0)


@translates("triu")
def _triu(to: Context, x: Value, diagonal: int = 0) -> str:
    return to.op("Trilu", x.name, to.graph.constant(np.array(diagonal, np.int64)), upper=1)
