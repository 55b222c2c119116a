"""Translations: reading and writing elements by their indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from innerloop.export.errors import ExportError
from innerloop.export.graph import Size
from innerloop.export.translate import Context, Value, translates

__all__: list[str] = []


@translates("gather")
def _gather(to: Context, x: Value, axis: int, index: Value, **_: Any) -> str:
    return to.op("GatherElements", to.tensor(x), to.tensor(index, torch.int64), axis=x.axis(axis))


@translates("embedding")
def _embedding(to: Context, weight: Value, index: Value, *_: Any) -> str:
    return to.op("Gather", weight.name, to.tensor(index, torch.int64), axis=0)


@translates("index_select")
def _index_select(to: Context, x: Value, axis: int, index: Value) -> str:
    return to.op("Gather", x.name, to.tensor(index, torch.int64), axis=x.axis(axis))


@translates("scatter.value")
def _scatter_value(to: Context, x: Value, axis: int, index: Value, value: Size) -> str:
    updates = to.op("Expand", to.tensor(value), to.shape_of(index))
    return _scattered(to, x, axis, index, updates, "none")


@translates("scatter.src")
def _scatter(to: Context, x: Value, axis: int, index: Value, src: Value) -> str:
    return _scattered(to, x, axis, index, to.tensor(src), "none")


@translates("scatter_add")
def _scatter_add(to: Context, x: Value, axis: int, index: Value, src: Value) -> str:
    return _scattered(to, x, axis, index, to.tensor(src), "add")


def _scattered(to: Context, x: Value, axis: int, index: Value, updates: str, reduction: str) -> str:
    where = to.tensor(index, torch.int64)
    if to.dtype != torch.bool:
        return to.op("ScatterElements", x.name, where, updates, axis=x.axis(axis), reduction=reduction)
    numbers = [to.graph.cast(name, torch.int32) for name in (x.name, updates)]
    found = to.op("ScatterElements", numbers[0], where, numbers[1], axis=x.axis(axis), reduction=reduction)
    return to.graph.cast(found, torch.bool)


@translates("index.Tensor")
def _index(to: Context, x: Value, indices: Sequence[Value | None]) -> str:
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) == 1:
        ((axis, index),) = given
        _check_index(index)
        return to.op("Gather", x.name, to.tensor(index, torch.int64), axis=axis)
    # The indexed axes come first, and go back to where they were if they were neighbours.
    axes = [axis for axis, _ in given]
    rest = [axis for axis in range(len(x.shape)) if axis not in axes]
    name = x.name if axes == list(range(len(axes))) else to.op("Transpose", x.name, perm=[*axes, *rest])
    found = to.op("GatherND", name, _together(to, list(enumerate(index for _, index in given))))
    first, new = axes[0], len(to.shape) - len(rest)
    if first == 0 or axes != list(range(first, first + len(axes))):
        return found
    order = [*range(new, new + first), *range(new), *range(new + first, new + len(rest))]
    return to.op("Transpose", found, perm=order)


@translates("index_put", "_unsafe_index_put")
def _index_put(to: Context, x: Value, indices: Sequence[Value | None], value: Value, accumulate: bool = False) -> str:
    where = _together(to, [(axis, index) for axis, index in enumerate(indices) if index is not None])
    reached = to.op("Shape", to.op("GatherND", x.name, where))
    updates = to.op("Expand", to.tensor(value), reached)
    return to.op("ScatterND", x.name, where, updates, reduction="add" if accumulate else "none")


def _together(to: Context, given: Sequence[tuple[int, Value]]) -> str:
    """Indices into the first axes of a tensor, as one value whose last axis has one index for each of them."""
    if [axis for axis, _ in given] != list(range(len(given))):
        raise ExportError("the computation indexes several axes that are not the first ones; this is not translated")
    for _, index in given:
        _check_index(index)
    total = to.graph.constant(0, torch.int64)
    for _, index in given:
        total = to.op("Add", total, to.op("Mul", to.tensor(index, torch.int64), to.graph.constant(0, torch.int64)))
    shape = to.op("Shape", total)
    last = to.graph.ints([-1])
    parts = [to.op("Unsqueeze", to.op("Expand", to.tensor(i, torch.int64), shape), last) for _, i in given]
    return to.op("Concat", *parts, axis=-1)


def _check_index(index: Value) -> None:
    if index.dtype == torch.bool:
        raise ExportError(
            "the computation selects elements by a mask, so that shapes depend on values; multiply by the mask instead"
        )
