"""Steps of a recording that run without Python: kernels, and sums and multiples of tensors."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from innerloop.engine.kernels import STEPS, Geometry, KernelError, step_runner
from innerloop.engine.replay.arena import bytes_of
from innerloop.engine.replay.recorder import Entry, Layout, Slot

__all__ = ["Native", "runs_natively"]

NUMBER, ARENA = -1, -2
_ADD, _MULTIPLY = torch.ops.aten.add.Tensor, torch.ops.aten.mul.Scalar
_REAL = {torch.float32: 0, torch.float64: 1}


def runs_natively(entry: Entry) -> bool:
    """Whether :class:`Native` can run this step."""
    shape = entry.shape
    if shape.kernel is not None:
        return shape.kernel in STEPS and all(isinstance(a, Slot | Geometry | int | float | None) for a in shape.args)
    if shape.kwargs or len(shape.args) != 2 or len(shape.outputs) != 1:
        return False
    one, other = shape.args
    tensors = [one, shape.outputs[0][1]]
    if shape.function is _ADD:
        tensors.append(other)
    elif shape.function is not _MULTIPLY or not isinstance(other, int | float):
        return False
    if not all(isinstance(t, Slot) and t.layout.dtype in _REAL and _dense(t.layout) for t in tensors):
        return False
    return len({(t.layout.dtype, t.layout.size, _order(t.layout)) for t in tensors}) == 1


def _dense(layout: Layout) -> bool:
    """Whether the elements fill a piece of memory without gaps, in any order."""
    expected = 1
    for stride, size in sorted(zip(layout.stride, layout.size, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _order(layout: Layout) -> tuple[int, ...]:
    """The strides of the axes that have more than one element."""
    return tuple(stride for stride, size in zip(layout.stride, layout.size, strict=True) if size != 1)


class Native:
    """Collects consecutive steps into one call.

    Args:
        places: the places of blocks that are separate tensors.
        arena: the byte in the arena where each other block begins.
        bases: the layout of each block's first tensor.
    """

    def __init__(self, places: Mapping[int, int], arena: Mapping[int, int], bases: Sequence[Layout]) -> None:
        self._places, self._arena, self._bases = places, arena, bases
        self._code: list[int] = []
        self._names: list[str] = []
        self._kept: list[Any] = []

    def __len__(self) -> int:
        return len(self._names)

    def add(self, entry: Entry) -> None:
        """Add a step."""
        shape, blocks = entry
        if shape.kernel is not None:
            dtype = next(a.layout.dtype for a in shape.args if isinstance(a, Slot) and a.layout.dtype in _REAL)
            what, arguments = STEPS.index(shape.kernel), list(shape.args)
        else:
            result = shape.outputs[0][1]
            one, other = shape.args
            dtype, elements = result.layout.dtype, bytes_of(_moved(result.layout)) // result.layout.dtype.itemsize
            what, arguments = len(STEPS) + (shape.function is _MULTIPLY), [elements, one, other, result]
            if shape.function is _MULTIPLY:
                arguments[2] = float(other)
        self._code += (2 * what + _REAL[dtype], len(arguments))
        for argument in arguments:
            self._code += self._operand(argument, blocks)
        self._names.append(shape.kernel or str(shape.function))

    def _operand(self, value: Any, blocks: Sequence[int]) -> tuple[int, int]:
        if isinstance(value, Slot):
            block = blocks[value.place]
            base = self._bases[block]
            distance = value.layout.offset * value.layout.dtype.itemsize
            if block in self._arena:
                return ARENA, self._arena[block] + distance
            return self._places[block], distance - base.offset * base.dtype.itemsize
        if isinstance(value, Geometry):
            self._kept.append(value)
            return NUMBER, ctypes.addressof(value)
        if isinstance(value, float):
            return NUMBER, int(struct.unpack("q", struct.pack("d", value))[0])
        return NUMBER, value or 0

    def finished(self) -> Callable[[Any, int], None]:
        """Return a function that runs the collected steps, and start a new collection.

        The function takes the addresses of the blocks, by place, and the address of the arena.
        """
        run, names, kept = step_runner(), self._names, self._kept
        code, count = (ctypes.c_int64 * len(self._code))(*self._code), len(names)
        self._code, self._names, self._kept = [], [], []

        def steps(addresses: Any, arena: int, kept: Sequence[Any] = kept) -> None:  # keeps the sizes alive
            assert run is not None
            if failed := run(code, count, addresses, arena):
                raise KernelError(names[failed - 1])

        return steps


def _moved(layout: Layout) -> Layout:
    return Layout(0, layout.size, layout.stride, layout.dtype)
