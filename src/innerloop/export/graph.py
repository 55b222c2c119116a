"""``Graph``: an ONNX graph while it is being written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from innerloop.export.errors import ExportError
from innerloop.extras import extra

__all__ = ["IR_VERSION", "OPSET", "Graph", "Scalar", "Size", "element_type", "numpy_of"]

OPSET = 18
"""The version of the ONNX operators. ONNX Runtime has had all of them since version 1.14, in browsers too."""

IR_VERSION = 8
"""The version of the file format that belongs to the operators."""


class Scalar(str):
    """The name of a value of the graph that has no axes, such as a number of examples."""

    __slots__ = ()


Size = int | float | Scalar
"""A number: known now, or a value of the graph."""


@dataclass
class Shared:
    """What a graph and the bodies of its loops have in common.

    Attributes:
        constants: the tensors that are stored in the file, by name.
        named: the names of the constants that have equal values, by their type, shape and bytes.
        counts: a count for each kind of name.
    """

    constants: dict[str, Any] = field(default_factory=dict)
    named: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    counts: dict[str, Iterator[int]] = field(default_factory=dict)


class Graph:
    """A graph that grows by one node at a time. Values are referred to by their names.

    Args:
        within: the graph that this one is a loop's body of; None for the outermost graph. A body may use the values of
            the graph around it.
    """

    def __init__(self, within: Graph | None = None) -> None:
        with extra("export"):
            self._onnx = import_module("onnx")
        self._shared: Shared = Shared() if within is None else within._shared
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def name(self, kind: str) -> str:
        """A name that no other value has."""
        count = next(self._shared.counts.setdefault(kind, itertools.count()))
        return f"{kind}_{count}" if count or "." not in kind else kind

    def op(self, kind: str, *values: str | None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name. None leaves an optional input out."""
        return self.ops(kind, 1, *values, **attributes)[0]

    def ops(self, kind: str, outputs: int, *values: str | None, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        names = [self.name(kind.lower()) for _ in range(outputs)]
        given = ["" if value is None else str(value) for value in values]
        while given and not given[-1]:
            given.pop()
        self.nodes.append(self._onnx.helper.make_node(kind, given, names, **attributes))
        return names

    def constant(self, value: npt.ArrayLike | Tensor, dtype: torch.dtype | None = None, name: str | None = None) -> str:
        """Store a tensor in the file and return its name. Equal tensors are stored once, unless they have a name."""
        array = numpy_of(value) if isinstance(value, Tensor) else np.asarray(value)
        if dtype is not None:
            array = array.astype(numpy_of(torch.empty(0, dtype=dtype)).dtype)
        array = np.array(array, order="C", copy=True)
        key = (array.dtype.str, array.shape, array.tobytes())
        if name is None and key in self._shared.named:
            return self._shared.named[key]
        own = self.name(name or "constant")
        self._shared.named.setdefault(key, own)
        self._shared.constants[own] = self._onnx.numpy_helper.from_array(array, own)
        return own

    def ints(self, sizes: Sequence[Size]) -> str:
        """A list of whole numbers as a value ``[N]``, for shapes and axes."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(np.array(sizes, dtype=np.int64))
        one = self.constant(np.array([1], dtype=np.int64))
        parts = [
            self.op("Reshape", size, one) if isinstance(size, Scalar) else self.constant(np.array([size], np.int64))
            for size in sizes
        ]
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=0)

    def size(self, value: str, axis: int) -> Scalar:
        """The length of an axis of a value."""
        one = self.op("Shape", value, start=axis, end=axis + 1)
        return Scalar(self.op("Squeeze", one, self.ints([0])))

    def cast(self, value: str, dtype: torch.dtype) -> str:
        """A value in another type."""
        return self.op("Cast", value, to=element_type(dtype))

    def add_input(self, name: str, dtype: torch.dtype, shape: Sequence[int | str | None]) -> str:
        """Declare an input. An axis whose length is not fixed has a name or None in its shape."""
        self.inputs.append(self._onnx.helper.make_tensor_value_info(name, element_type(dtype), shape))
        return name

    def add_output(self, value: str, name: str, dtype: torch.dtype, shape: Sequence[int | str | None]) -> None:
        """Declare a value as an output under a name of its own."""
        self.nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._onnx.helper.make_tensor_value_info(name, element_type(dtype), shape))

    def loop(self, count: Size, carried: Sequence[str], body: Graph, collected: int) -> list[str]:
        """Add a loop. It returns the values that were carried through all rounds, then those collected in each.

        Args:
            count: the number of rounds.
            carried: the values that enter the first round.
            body: its inputs are the round's number, a condition, and the carried values. Its outputs are a condition,
                the carried values and the collected ones.
            collected: how many values each round adds. They are stacked.
        """
        rounds = str(count) if isinstance(count, Scalar) else self.constant(np.array(count, dtype=np.int64))
        names = [self.name("loop") for _ in range(len(carried) + collected)]
        graph = self._onnx.helper.make_graph(body.nodes, self.name("body"), body.inputs, body.outputs)
        self.nodes.append(self._onnx.helper.make_node("Loop", [rounds, "", *carried], names, body=graph))
        return names

    def model(self, about: str, properties: dict[str, str]) -> Any:
        """The finished model, checked by ONNX's own checker."""
        helper = self._onnx.helper
        constants = list(self._shared.constants.values())
        graph = helper.make_graph(self.nodes, "innerloop", self.inputs, self.outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="innerloop")
        model.ir_version, model.doc_string = IR_VERSION, about
        helper.set_model_props(model, properties)
        self._onnx.checker.check_model(model, full_check=True)
        return model


def numpy_of(tensor: Tensor) -> npt.NDArray[Any]:
    """A tensor's values as an array."""
    array: npt.NDArray[Any] = tensor.detach().cpu().contiguous().numpy()
    return array


def element_type(dtype: torch.dtype) -> int:
    """ONNX's number of a type.

    Raises:
        ExportError: there is none that every ONNX Runtime computes with.
    """
    if dtype not in _TYPES:
        raise ExportError(
            f"the computation has values of {dtype}, which an exported graph does not use: convert the network and the "
            "data to float32"
        )
    return _TYPES[dtype]


_TYPES = {
    torch.float32: 1,
    torch.float64: 11,
    torch.int64: 7,
    torch.int32: 6,
    torch.uint8: 2,
    torch.bool: 9,
}
"""The numbers that ONNX's format has for types."""
