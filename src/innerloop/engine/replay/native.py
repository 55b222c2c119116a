"""Steps of a recording that run without Python: kernels, and sums and multiples of tensors."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from innerloop.engine.kernels import PARTS, STEPS, Geometry, KernelError, step_runner
from innerloop.engine.replay.arena import bytes_of
from innerloop.engine.replay.parts import Use
from innerloop.engine.replay.recorder import Entry, Layout, Slot
from innerloop.engine.replay.sweeps import Sweep

__all__ = ["Native", "runs_natively"]

NUMBER, ARENA, SWEEP = -1, -2, -1
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

    def add(self, entry: Entry | Sweep) -> None:
        """Add a step."""
        if isinstance(entry, Sweep):
            self._sweep(entry)
            return
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

    def _sweep(self, sweep: Sweep) -> None:
        """Add a sweep. The code is that of ``run_sweep`` in ``csrc/kernels.c``."""
        self._code += (SWEEP, *sweep.domain, sweep.images, len(sweep.parts))
        streams, seen = sweep.streams(), 0
        for place, part in enumerate(sweep.parts):
            arguments = [self._in_sweep(argument, sweep) for argument in part.arguments]
            if place in sweep.turned:
                arguments.append((ARENA, self._arena[sweep.turned[place]], 0, 0))
            if part.state is not None:
                assert part.memory is not None
                address = self._arena[part.memory]
                arguments.append((ARENA, address, sweep.memory[part.memory] // sweep.domain.tasks, 0))
            elif part.channels:
                arguments.append((NUMBER, 0, 0, 0))
            if part.name in PARTS[:3]:
                stream = streams[seen % len(streams)] if streams else None
                arguments += self._stream(stream, sweep)
                seen += 1
            self._code += (2 * PARTS.index(part.name) + _REAL[part.dtype], len(arguments))
            for argument in arguments:
                self._code += argument
        self._names.append(" and ".join(part.name for part in sweep.parts))

    def _in_sweep(self, value: Any, sweep: Sweep) -> tuple[int, int, int, int]:
        if not isinstance(value, Use):
            return (*self._operand(value, ()), 0, 0)
        if value.block in sweep.local:
            return ARENA, self._arena[sweep.of_local[value.block]], 0, 0
        return (*self._address(value.block, value.layout), value.by_task, value.by_image)

    def _stream(self, use: Use | None, sweep: Sweep) -> list[tuple[int, int, int, int]]:
        """The images of a tensor after those that are worked on, and the numbers in one of them."""
        if use is None:
            return [(NUMBER, 0, 0, 0)] * 2
        place, distance, by_task, by_image = self._in_sweep(use, sweep)
        each = by_image // use.layout.dtype.itemsize
        return [(place, distance + sweep.images * by_image, by_task, by_image), (NUMBER, each, 0, 0)]

    def _address(self, block: int, layout: Layout) -> tuple[int, int]:
        distance = layout.offset * layout.dtype.itemsize
        if block in self._arena:
            return ARENA, self._arena[block] + distance
        base = self._bases[block]
        return self._places[block], distance - base.offset * base.dtype.itemsize

    def _operand(self, value: Any, blocks: Sequence[int]) -> tuple[int, int]:
        if isinstance(value, Slot):
            return self._address(blocks[value.place], value.layout)
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
