"""Translations: sums and other summaries over axes, and products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from innerloop.export.errors import ExportError
from innerloop.export.graph import Size
from innerloop.export.translate import Context, Value, translates

__all__ = ["mean_of", "reduced"]

Axes = int | Sequence[int] | None


def reduced(to: Context, kind: str, name: str, x: Value, axes: Axes, *, keep: bool) -> str:
    """Summarise over axes; over all if there are none."""
    if not x.shape:
        return name
    chosen = range(len(x.shape)) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    return to.op(kind, name, to.graph.ints([x.axis(axis) for axis in chosen]), keepdims=int(keep))


def mean_of(to: Context, name: str, x: Value, axes: Sequence[int]) -> str:
    """The mean over axes, which stay with length 1."""
    return reduced(to, "ReduceMean", name, x, axes, keep=True)


def _reduction(kind: str) -> Callable[..., str]:
    def write(to: Context, x: Value, axes: Axes = None, keep: bool = False, **_: Any) -> str:
        return reduced(to, kind, to.tensor(x), x, axes, keep=keep)

    return write


translates("sum")(_reduction("ReduceSum"))
translates("mean")(_reduction("ReduceMean"))
translates("amax")(_reduction("ReduceMax"))
translates("amin")(_reduction("ReduceMin"))
translates("prod.dim_int")(_reduction("ReduceProd"))
translates("prod.default")(_reduction("ReduceProd"))


@translates("any")
def _any(to: Context, x: Value, axes: Axes = None, keep: bool = False) -> str:
    found = reduced(to, "ReduceMax", to.tensor(x, torch.int32), x, axes, keep=keep)
    return to.graph.cast(found, torch.bool)


@translates("var.correction")
def _var(to: Context, x: Value, axes: Axes = None, *, correction: float | None = None, keepdim: bool = False) -> str:
    chosen = list(range(len(x.shape))) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    off = to.op("Sub", x.name, mean_of(to, x.name, x, chosen))
    count = 1
    for length in x.fixed("a variance", chosen):
        count *= length
    total = reduced(to, "ReduceSumSquare", off, x, chosen, keep=keepdim)
    return to.op("Div", total, to.number(count - (1 if correction is None else correction)))


@translates("linalg_vector_norm")
def _norm(to: Context, x: Value, order: float = 2, axes: Axes = None, keep: bool = False, **_: Any) -> str:
    if order != 2:
        raise ExportError(f"the computation takes a norm of order {order}; only 2 is translated")
    return reduced(to, "ReduceL2", to.tensor(x), x, axes, keep=keep)


@translates("median.dim")
def _median(to: Context, x: Value, axis: int, keep: bool = False) -> list[str]:
    return _kth(to, x, axis, (x.fixed("a median", [axis])[0] + 1) // 2, keep=keep, largest=0)


@translates("max.dim")
def _max(to: Context, x: Value, axis: int, keep: bool = False) -> list[str]:
    return _kth(to, x, axis, 1, keep=keep, largest=1)


@translates("min.dim")
def _min(to: Context, x: Value, axis: int, keep: bool = False) -> list[str]:
    return _kth(to, x, axis, 1, keep=keep, largest=0)


def _kth(to: Context, x: Value, axis: int, k: int, *, keep: bool, largest: int) -> list[str]:
    """The k-th number of an axis in order, and its place."""
    ints = to.graph.ints
    found = to.graph.ops("TopK", 2, x.name, ints([k]), axis=x.axis(axis), largest=largest, sorted=1)
    kth = [to.op("Slice", name, ints([k - 1]), ints([k]), ints([x.axis(axis)])) for name in found]
    return kth if keep else [to.op("Squeeze", name, ints([x.axis(axis)])) for name in kth]


@translates("argmax")
def _argmax(to: Context, x: Value, axis: int | None = None, keep: bool = False) -> str:
    if axis is None:
        return to.op("ArgMax", to.op("Reshape", x.name, to.graph.ints([-1])), axis=0, keepdims=0)
    return to.op("ArgMax", x.name, axis=x.axis(axis), keepdims=int(keep))


@translates("mm", "bmm")
def _product(to: Context, x: Value, y: Value) -> str:
    return to.op("MatMul", to.tensor(x), to.tensor(y))


@translates("addmm")
def _addmm(to: Context, bias: Value, x: Value, y: Value, *, beta: Size = 1, alpha: Size = 1) -> str:
    product, add = to.op("MatMul", to.tensor(x), to.tensor(y)), to.tensor(bias)
    scaled = product if alpha == 1 else to.op("Mul", product, to.tensor(alpha))
    return to.op("Add", scaled, add if beta == 1 else to.op("Mul", add, to.tensor(beta)))
