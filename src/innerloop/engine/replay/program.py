"""``Program``: a recorded computation as a function."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import torch
from torch import Tensor

from innerloop.engine import _torch
from innerloop.engine.kernels import KernelError
from innerloop.engine.replay.arena import arena_of_thread
from innerloop.engine.replay.arrangement import Arrangement
from innerloop.engine.replay.native import Native
from innerloop.engine.replay.recorder import Entry, Layout, Recorder, Ref, Shape, Slot
from innerloop.engine.replay.refused import RefusedError

__all__ = ["Program"]

Instruction = Callable[..., Any]
"""Takes the tensors of a run and the places of some of them. It does one step, or returns the results."""


class Program:
    """Maps the inputs of a computation to its results, without autograd, ``vmap`` or the module.

    A tensor is released after its last use, as in the computation itself. Consecutive compiled kernels run in one call.
    They write to memory that the next call reuses.

    Args:
        recorder: the recorder of the computation.
        results: the results of the computation.

    Attributes:
        read: the blocks of the recorder that the results depend on.
        steps: the steps, in order.

    Raises:
        RefusedError: the computation cannot be written as a program.
    """

    def __init__(self, recorder: Recorder, results: Sequence[Ref]) -> None:
        order = Arrangement.of(recorder, [ref.block for ref in results])
        self.read = {block for _, entry in order.steps for block in entry.blocks} | order.returned
        self._bytes = order.bytes
        self._constants = [tensor.detach() for tensor in recorder.constants.values()]
        places = {block: place for place, block in enumerate([*range(len(recorder.inputs)), *recorder.constants])}
        self._views: list[tuple[int, int, Layout]] = []  # tensors in the arena: place, first byte, layout
        for block in order.seen:
            places[block] = len(places)
            self._views.append((places[block], order.lies[block], recorder.bases[block]))
        self._size = len(places)
        wanted = {block for n, entry in order.steps if n in order.native for block in entry.blocks} - order.lies.keys()
        self._addressed = [places[block] for block in sorted(wanted & places.keys())]
        self.steps: list[_Step] = []
        self._write(recorder, order, places, wanted)
        self._results = _Writer(recorder, order.lies.keys()).results(results)
        self._returned = [places[ref.block] for ref in results]

    def _write(self, recorder: Recorder, order: Arrangement, places: dict[int, int], wanted: AbstractSet[int]) -> None:
        """Write the steps, and give places to the blocks that they make."""
        kept, free = {*places, *order.returned, *order.lies}, list[int]()
        write, together = _Writer(recorder, order.lies.keys()), Native(places, order.lies, recorder.bases)
        waiting = set[int]()  # places that become empty after the native steps

        def finish() -> None:
            if together:
                self.steps.append(_Step(None, together.finished(), (), (), tuple(waiting)))
                free.extend(waiting)
                waiting.clear()

        for number, entry in order.steps:
            ends = [block for block in entry.blocks if order.last[block] == number and block not in kept]
            if number in order.native:
                together.add(entry)
                waiting.update(places[block] for block in ends)
                continue
            finish()
            noted = []
            for block in entry.made:
                if not free:
                    free.append(self._size)
                    self._size += 1
                places[block] = free.pop()
                if block in wanted:
                    noted.append(places[block])
            at, over = tuple(places[block] for block in entry.blocks), {places[block] for block in ends}
            assert isinstance(entry, Entry)  # sweeps are native
            self.steps.append(_Step(write.step(entry), None, at, tuple(noted), tuple(over)))
            free += over
        finish()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The results for these inputs. The inputs must have the same sizes and strides as the recorded ones."""
        tensors: list[Tensor | None] = [*inputs, *self._constants]
        tensors += [None] * (self._size - len(tensors))
        arena, addresses = 0, (ctypes.c_int64 * self._size)()
        if self._bytes:
            memory, views = arena_of_thread(self._bytes, self, self._views)
            arena = memory.data_ptr()
            for place, view in views:
                tensors[place] = view
        for place in self._addressed:
            addresses[place] = tensors[place].data_ptr()  # type: ignore[union-attr]
        for instruction, native, places, noted, over in self.steps:
            if native is not None:
                native(addresses, arena)
            elif instruction is not None:
                instruction(tensors, *places)
                for place in noted:
                    addresses[place] = tensors[place].data_ptr()  # type: ignore[union-attr]
            for place in over:
                tensors[place] = None
        results: tuple[Tensor, ...] = self._results(tensors, *self._returned)
        return results


class _Step(NamedTuple):
    """One step in Python, or several native steps.

    Attributes:
        instruction: does the step. It takes the tensors of a run, and the step's places.
        native: does the native steps. It takes addresses.
        places: the places of the step's tensors.
        noted: the places whose addresses later native steps need.
        over: the places that are empty after the step.
    """

    instruction: Instruction | None
    native: Callable[[Any, int], None] | None
    places: tuple[int, ...]
    noted: tuple[int, ...]
    over: tuple[int, ...]


class _Writer:
    """Writes instructions. Entries that differ only in their blocks share one instruction."""

    def __init__(self, recorder: Recorder, within: AbstractSet[int]) -> None:
        self._bases = recorder.bases
        self._elsewhere = {*range(len(recorder.inputs)), *within}  # blocks whose place in their memory may vary
        self._written: dict[Any, Instruction] = {}
        self._scope: dict[str, Any] = {}

    def step(self, entry: Entry) -> Instruction:
        """The instruction for an entry."""
        shape, blocks = entry
        key = (shape, *((self._bases[block], block in self._elsewhere) for block in blocks))
        if key not in self._written:
            self._written[key] = self._instruction(len(blocks), self._line(shape, blocks))
        return self._written[key]

    def results(self, refs: Sequence[Ref]) -> Instruction:
        """The instruction that returns these tensors."""
        self._scope = {"strided": torch.as_strided}
        tensors = [self._tensor(Slot(place, ref.layout), ref.block) for place, ref in enumerate(refs)]
        return self._instruction(len(refs), f"return ({''.join(f'{tensor}, ' for tensor in tensors)})")

    def _line(self, shape: Shape, blocks: Sequence[int]) -> str:
        operation = _torch.operation(shape.function)
        self._scope = {"strided": torch.as_strided, "failed": _failed, "call": operation}
        if shape.kernel is not None:
            addresses = [
                self._address(a, blocks) if isinstance(a, Slot) else self._literal(a, blocks) for a in shape.args
            ]
            return f"if call({', '.join(addresses)}): failed({shape.kernel!r})"
        arguments = [self._literal(a, blocks) for a in shape.args]
        arguments += [f"{name}={self._literal(value, blocks)}" for name, value in shape.kwargs.items()]
        line = f"call({', '.join(arguments)})"
        if not shape.outputs:
            return line
        if shape.outputs[0][0] is None:
            return f"v[p{shape.outputs[0][1].place}] = {line}"
        return f"r = {line}; " + "; ".join(f"v[p{slot.place}] = r[{position}]" for position, slot in shape.outputs)

    def _instruction(self, places: int, line: str) -> Instruction:
        names = "".join(f", p{place}" for place in range(places))
        exec(f"def instruction(v{names}):\n {line}", self._scope)
        instruction: Instruction = self._scope["instruction"]
        return instruction

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._scope)}"
        self._scope[name] = value
        return name

    def _literal(self, value: Any, blocks: Sequence[int]) -> str:
        if isinstance(value, Slot):
            return self._tensor(value, blocks[value.place])
        if isinstance(value, list | tuple) and any(isinstance(item, Slot | list | tuple) for item in value):
            inside = "".join(f"{self._literal(item, blocks)}, " for item in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        return self._constant(value)

    def _tensor(self, slot: Slot, block: int) -> str:
        base, layout, whole = self._bases[block], slot.layout, f"v[p{slot.place}]"
        if layout == base:
            return whole
        if layout.dtype != base.dtype:
            raise RefusedError("it looks at memory as of another type")
        # Inputs and blocks in the arena may lie elsewhere in their memory in each run.
        apart = block in self._elsewhere
        offset = f"{whole}.storage_offset() + {layout.offset - base.offset}" if apart else f"{layout.offset}"
        return f"strided({whole}, {self._constant(layout.size)}, {self._constant(layout.stride)}, {offset})"

    def _address(self, slot: Slot, blocks: Sequence[int]) -> str:
        base: Layout = self._bases[blocks[slot.place]]
        offset = slot.layout.offset * slot.layout.dtype.itemsize - base.offset * base.dtype.itemsize
        return f"v[p{slot.place}].data_ptr()" + (f" + {offset}" if offset else "")


def _failed(kernel: str) -> None:
    raise KernelError(kernel)
