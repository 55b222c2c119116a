"""A recorded computation as a function that does it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from innerloop.engine import _torch
from innerloop.engine.kernels import KernelError
from innerloop.engine.replay.recorder import Entry, Layout, Recorder, Ref, Shape, Slot
from innerloop.engine.replay.refused import RefusedError

__all__ = ["Program"]

Instruction = Callable[..., Any]
"""Given the tensors of a run and the places of some of them, does one step, or returns the results."""


class Program:
    """A function from the inputs of a computation to its results, without autograd, ``vmap`` or the module.

    A tensor is let go of after its last use, as in the computation itself.

    Args:
        recorder: has recorded the computation.
        results: what it gives.

    Attributes:
        read: the blocks of the recorder that the results depend on.
        steps: an instruction, the places of its tensors, and the places that are empty after it.

    Raises:
        RefusedError: it cannot be written like this.
    """

    def __init__(self, recorder: Recorder, results: Sequence[Ref]) -> None:
        self.steps: list[tuple[Instruction, tuple[int, ...], tuple[int, ...]]] = []
        self._constants = [tensor.detach() for tensor in recorder.constants.values()]
        self._inputs = len(recorder.inputs)
        self._size = self._inputs + len(self._constants)
        places = {block: place for place, block in enumerate([*range(self._inputs), *recorder.constants])}
        entries = _needed(recorder.entries, [ref.block for ref in results])
        self.read = {block for entry in entries for block in entry.blocks} | {ref.block for ref in results}
        last = {block: number for number, entry in enumerate(entries) for block in entry.blocks}
        kept, free = {*places, *(ref.block for ref in results)}, list[int]()
        write = _Writer(recorder)
        for number, entry in enumerate(entries):
            for _, slot in entry.shape.outputs:
                if not free:
                    free.append(self._size)
                    self._size += 1
                places[entry.blocks[slot.place]] = free.pop()
            over = tuple({places[b] for b in entry.blocks if last[b] == number and b not in kept})
            self.steps.append((write.step(entry), tuple(places[block] for block in entry.blocks), over))
            free += over
        self._results, self._returned = write.results(results), [places[ref.block] for ref in results]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The results for these inputs, which must have the sizes and strides of those recorded."""
        tensors: list[Tensor | None] = [*inputs, *self._constants]
        tensors += [None] * (self._size - len(tensors))
        for instruction, places, over in self.steps:
            instruction(tensors, *places)
            for place in over:
                tensors[place] = None
        results: tuple[Tensor, ...] = self._results(tensors, *self._returned)
        return results


class _Writer:
    """Writes instructions, one for all entries that differ in nothing but their blocks."""

    def __init__(self, recorder: Recorder) -> None:
        self._bases, self._inputs = recorder.bases, len(recorder.inputs)
        self._written: dict[Any, Instruction] = {}
        self._scope: dict[str, Any] = {}

    def step(self, entry: Entry) -> Instruction:
        """The instruction for an entry."""
        shape, blocks = entry
        key = (shape, *((self._bases[block], block < self._inputs) for block in blocks))
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
        # An input may lie elsewhere in its memory each time.
        given = block < self._inputs
        offset = f"{whole}.storage_offset() + {layout.offset - base.offset}" if given else f"{layout.offset}"
        return f"strided({whole}, {self._constant(layout.size)}, {self._constant(layout.stride)}, {offset})"

    def _address(self, slot: Slot, blocks: Sequence[int]) -> str:
        base: Layout = self._bases[blocks[slot.place]]
        offset = slot.layout.offset * slot.layout.dtype.itemsize - base.offset * base.dtype.itemsize
        return f"v[p{slot.place}].data_ptr()" + (f" + {offset}" if offset else "")


def _needed(entries: Sequence[Entry], results: Iterable[int]) -> list[Entry]:
    """The entries that the results depend on."""
    blocks, needed = set(results), []
    for entry in reversed(entries):
        if any(to and block in blocks for block, to in zip(entry.blocks, entry.shape.written, strict=True)):
            blocks.update(entry.blocks)
            needed.append(entry)
    return needed[::-1]


def _failed(kernel: str) -> None:
    raise KernelError(kernel)
