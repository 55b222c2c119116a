"""Write a recorded computation into an ONNX graph, one operator after another."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from innerloop.engine.pytree import tree_flatten, tree_unflatten
from innerloop.export.errors import ExportError
from innerloop.export.graph import Graph, Scalar, Size
from innerloop.export.trace import Recorded, fixed_length

__all__ = ["TRANSLATIONS", "Context", "Value", "translate", "translates"]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: its name in the graph.
        dtype: its type.
        shape: the lengths of its axes; None for an axis whose length is not fixed.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]

    def axis(self, axis: int) -> int:
        """An axis counted from the first."""
        return axis % max(len(self.shape), 1)

    def fixed(self, what: str, axes: Sequence[int] | None = None) -> list[int]:
        """The lengths of axes (of all, if None), which must be fixed."""
        lengths = [self.shape[axis] for axis in (range(len(self.shape)) if axes is None else axes)]
        if any(length is None for length in lengths):
            raise ExportError(f"{what} works on the axis of the examples; give examples=(support, query) to fix it")
        return [length for length in lengths if length is not None]


@dataclass(frozen=True)
class Context:
    """Where an operator is written, and what it gives.

    Attributes:
        graph: the graph.
        results: the type and shape of each result.
    """

    graph: Graph
    results: list[Value]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first result."""
        return self.results[0].dtype

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the first result."""
        return self.results[0].shape

    def op(self, kind: str, *values: str | None, **attributes: Any) -> str:
        """Add a node, see :meth:`Graph.op`."""
        return self.graph.op(kind, *values, **attributes)

    def number(self, value: float | Sequence[int], dtype: torch.dtype | None = None) -> str:
        """A number that is known now; by default in the type of the first result."""
        return self.graph.constant(np.asarray(value), dtype or self.dtype)

    def tensor(self, value: Value | Size, dtype: torch.dtype | None = None) -> str:
        """A tensor or a number in a type; by default that of the first result."""
        dtype = dtype or self.dtype
        if isinstance(value, Value):
            return value.name if value.dtype == dtype else self.graph.cast(value.name, dtype)
        return self.graph.cast(value, dtype) if isinstance(value, Scalar) else self.number(value, dtype)

    def shape_of(self, value: Value) -> str:
        """The shape of a tensor as a value of the graph."""
        if None in value.shape:
            return self.op("Shape", value.name)
        return self.graph.ints(value.fixed("this"))


TRANSLATIONS: dict[str, Callable[..., str | list[str]]] = {}
"""For each of PyTorch's basic operators, the function that writes it. It returns the names of the results."""


def translates(*names: str) -> Callable[[Callable[..., str | list[str]]], Callable[..., str | list[str]]]:
    """Register a function that writes the operators of these names, such as ``add`` or ``sum.dim_IntList``."""

    def enter(write: Callable[..., str | list[str]]) -> Callable[..., str | list[str]]:
        TRANSLATIONS.update(dict.fromkeys(names, write))
        return write

    return enter


def translate(recorded: Recorded, given: Sequence[str], graph: Graph, what: str) -> Any:
    """Write a recorded computation.

    Args:
        recorded: the computation.
        given: the names of its inputs in the graph.
        graph: the graph.
        what: what the computation is, for error messages.

    Returns:
        What the computation returns, with values of the graph in place of tensors.

    Raises:
        ExportError: it uses an operator that has no translation.
    """
    values: dict[Node, Any] = {
        node: _described(node.meta["val"], [name])[0] for node, name in zip(recorded.inputs, given, strict=True)
    }
    for node in recorded.module.graph.nodes:
        if node.op == "get_attr":
            constant: Any = getattr(recorded.module, str(node.target))
            values[node] = Value(graph.constant(constant), constant.dtype, tuple(constant.shape))
        elif node.op == "call_function":
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = _written(node, args, kwargs, graph, what)
    leaves, spec = tree_flatten(recorded.outputs)
    return tree_unflatten([None if leaf is None else values[leaf] for leaf in leaves], spec)


ABSENT = {
    "_linalg_svd": "a singular value decomposition, which ONNX does not have",
    "linalg_inv_ex": "the solution of linear equations, which ONNX does not have",
    "_linalg_solve_ex": "the solution of linear equations, which ONNX does not have",
}
"""Operators that no ONNX operators can take the place of, and why."""


def _written(node: Node, args: Sequence[Any], kwargs: dict[str, Any], graph: Graph, what: str) -> Any:
    if node.target is operator.getitem:
        return args[0][args[1]]
    if node.target in _OF_NUMBERS:
        return _number(_OF_NUMBERS[node.target], args, graph)
    operation, _, overload = str(node.target).removeprefix("aten.").partition(".")
    if operation == "sym_size":
        length = args[0].shape[args[1]]
        return graph.size(args[0].name, args[0].axis(args[1])) if length is None else length
    if operation == "sym_numel":
        lengths = [graph.size(args[0].name, i) if n is None else n for i, n in enumerate(args[0].shape)]
        return _product(lengths, graph)
    write = TRANSLATIONS.get(f"{operation}.{overload}") or TRANSLATIONS.get(operation)
    if write is None:
        reason = ABSENT.get(operation, "for which this package knows no ONNX operators")
        raise ExportError(
            f"{what} uses the operator {node.target}, {reason}; choose a network and a method that do without it"
        )
    found = node.meta["val"]
    several = isinstance(found, list | tuple)
    results = _described(found, [""] * (len(found) if several else 1))
    names = write(Context(graph, results), *args, **kwargs)
    described = _described(found, names if isinstance(names, list) else [names])
    return described if several else described[0]


def _described(found: Any, names: Sequence[str]) -> list[Value]:
    """Names with the types and shapes that the recording has for them."""
    tensors = found if isinstance(found, list | tuple) else [found]
    return [
        Value(name, tensor.dtype, tuple(map(fixed_length, tensor.shape)))
        if isinstance(tensor, Tensor)
        else Value(name, torch.int64, ())
        for name, tensor in zip(names, tensors, strict=True)
    ]


def _number(kind: str, args: Sequence[Size], graph: Graph) -> Size:
    """Arithmetic on numbers, of which some are known when the graph runs only."""
    if not any(isinstance(arg, Scalar) for arg in args):
        known: Size = _NOW[kind](*args)
        return known
    whole = kind not in ("Div", "Cast") and all(isinstance(arg, Scalar | int) for arg in args)
    dtype = torch.int64 if whole else torch.float32
    names = [graph.cast(a, dtype) if isinstance(a, Scalar) else graph.constant(np.array(a), dtype) for a in args]
    if kind == "Cast":
        return Scalar(names[0])
    # Lengths are never negative, so that a division of whole numbers rounds down.
    return Scalar(graph.op("Div" if kind == "FloorDiv" else kind, *names))


def _product(sizes: Sequence[Size], graph: Graph) -> Size:
    result: Size = 1
    for size in sizes:
        result = size if result == 1 else _number("Mul", (result, size), graph)
    return result


_NOW: dict[str, Callable[..., Size]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Max": max,
    "Min": min,
    "Cast": float,
}

_OF_NUMBERS: dict[Any, str] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.truediv: "Div",
    operator.floordiv: "FloorDiv",
    torch.sym_max: "Max",
    torch.sym_min: "Min",
    torch.sym_float: "Cast",
}
