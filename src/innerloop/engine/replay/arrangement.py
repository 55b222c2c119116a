"""``Arrangement``: which steps of a recording are replayed, which run without Python, and which blocks share memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import torch

from innerloop.engine.kernels import step_runner
from innerloop.engine.replay.arena import arranged, bytes_of
from innerloop.engine.replay.native import runs_natively
from innerloop.engine.replay.recorder import Entry, Layout, Recorder
from innerloop.engine.replay.sweeps import Sweep, swept

__all__ = ["Arrangement"]


@dataclass(frozen=True)
class Arrangement:
    """The plan for replaying a recording.

    Attributes:
        steps: the steps that the results depend on, with their numbers, in the order in which they are replayed.
        native: the numbers of the steps that run without Python.
        lies: for each block in the arena, the byte where it begins. The arena exists before the first step. The other
            memory of sweeps has the numbers after those of the blocks.
        bytes: the size of the arena.
        seen: the blocks in the arena that steps in Python use as tensors, in order.
        last: for each block, the last step that uses it.
        returned: the blocks of the results.
    """

    steps: Sequence[tuple[int, Entry | Sweep]]
    native: AbstractSet[int]
    lies: Mapping[int, int]
    bytes: int
    seen: Sequence[int]
    last: Mapping[int, int]
    returned: AbstractSet[int]

    @classmethod
    def of(cls, recorder: Recorder, results: Iterable[int]) -> Arrangement:
        """Make the plan for a recording with these blocks as results."""
        returned = set(results)
        entries = _needed(recorder.entries, returned)
        able = step_runner() is not None
        native = {number for number, entry in enumerate(entries) if able and runs_natively(entry)}
        again = _used_again(entries, native, returned, recorder.bases)
        native = {number for number in native if again.issuperset(entries[number].made)}
        # Blocks in the arena need no allocation.
        needed = [(n, entry) for n, entry in enumerate(entries) if not (_allocates(entry) and again >= {*entry.made})]
        ordered = swept(needed, native, again, recorder.bases)
        steps = [(number, step) for number, (step, _) in enumerate(ordered)]
        native = {number for number, (_, runs_natively) in enumerate(ordered) if runs_natively}
        born, last = dict[int, int](), dict[int, int]()
        sizes: dict[int, int] = {}
        for number, step in steps:
            memory = step.memory if isinstance(step, Sweep) else {}
            sizes |= memory
            for block in (*step.blocks, *memory):
                born.setdefault(block, number)
                last[block] = number
        sizes |= {block: bytes_of(recorder.bases[block]) for block in again & born.keys()}
        lies, total = arranged(sizes, born, last)
        seen = dict.fromkeys(b for n, step in steps if n not in native for b in step.blocks if b in lies)
        return cls(steps, native, lies, total, list(seen), last, returned)


def _used_again(
    entries: Sequence[Entry], native: AbstractSet[int], returned: AbstractSet[int], bases: Sequence[Layout]
) -> set[int]:
    """The blocks that can reuse memory: they are made for kernels or by native steps, and are not results."""
    made = [b for n, entry in enumerate(entries) if n in native or (native and _allocates(entry)) for b in entry.made]
    return {block for block in made if block not in returned and not bases[block].offset}


def _allocates(entry: Entry) -> bool:
    return entry.shape.kernel is None and entry.shape.function is torch.empty_strided


def _needed(entries: Sequence[Entry], results: Iterable[int]) -> list[Entry]:
    """The entries that the results depend on."""
    blocks, needed = set(results), []
    for entry in reversed(entries):
        if any(to and block in blocks for block, to in zip(entry.blocks, entry.shape.written, strict=True)):
            blocks.update(entry.blocks)
            needed.append(entry)
    return needed[::-1]
