"""Sweeps: several kernels on a few images at a time, so that what one writes is in the cache when the next reads it.

A kernel on its own reads and writes the images of all tasks. For many images these do not fit in a cache. A sweep takes
consecutive kernels of a recording and gives each of them the same few images, then the next few. Every kernel works on
images separately, except where it sums over them. What needs such a sum is part of the next sweep. Batch norm and its
derivatives have two halves: the first takes sums, the second uses them.

Images that only one sweep needs are never in memory as a whole. The output of batch norm is not kept either: each sweep
that reads it computes it again from the input, which it reads instead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from innerloop.engine.kernels import state_bytes
from innerloop.engine.replay.parts import Domain, Part, Use, parts_of
from innerloop.engine.replay.recorder import Entry, Layout

__all__ = ["Sweep", "swept"]

CACHE = 384 << 10
"""The bytes that the images of a block may take, so that they stay in the second-level cache."""


@dataclass(eq=False)
class Sweep:
    """Parts of kernels that work on a few images at a time, one part after another.

    Attributes:
        domain: the numbers of tasks and of images of a task.
        parts: the parts, in order.
        local: the blocks whose images are in memory only a few at a time.
        memory: the bytes of other memory that it needs, by number. The numbers follow those of the blocks.
        of_local: the number of the memory for each local block.
        turned: the number of the memory for turned weights, by the place of the part.
    """

    domain: Domain
    parts: list[Part] = field(default_factory=list)
    local: set[int] = field(default_factory=set)
    memory: dict[int, int] = field(default_factory=dict)
    of_local: dict[int, int] = field(default_factory=dict)
    turned: dict[int, int] = field(default_factory=dict)

    @property
    def uses(self) -> list[Use]:
        """What its parts read and write."""
        return [use for part in self.parts for use in part.uses]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that it reads or writes, apart from local ones."""
        return tuple(dict.fromkeys(use.block for use in self.uses if use.block not in self.local))

    @property
    def made(self) -> list[int]:
        """The blocks that it allocates: none."""
        return []

    @property
    def images(self) -> int:
        """The number of images to work on at a time."""
        per_image = {use.block: use.by_image for use in self.uses if use.by_image}
        most = max(1, CACHE // max(1, sum(per_image.values())))
        blocks = -(-self.domain.images // most)
        return -(-self.domain.images // blocks)

    def streams(self) -> list[Use]:
        """The images that lie in memory as a whole, of which it needs the next few soon, the largest first."""
        uses = {use.block: use for use in self.uses if use.by_image}
        found = [use for block, use in uses.items() if block not in self.local and use.layout.dtype.is_floating_point]
        return sorted(found, key=lambda use: -use.by_image)


def swept(
    steps: Sequence[tuple[int, Entry]], native: AbstractSet[int], again: AbstractSet[int], bases: Sequence[Layout]
) -> list[tuple[Entry | Sweep, bool]]:
    """The steps in a new order, with sweeps in place of kernels where possible. With each, whether it is native.

    Args:
        steps: the steps, with their numbers.
        native: the numbers of the steps that run without Python.
        again: the blocks that lie in the arena.
        bases: the layout of each block's first tensor.
    """
    writers = Counter(block for _, entry in steps for block in _written(entry))
    ordered: list[tuple[Entry | Sweep, bool]] = []
    run: list[Entry] = []
    for number, entry in steps:
        if number in native:
            run.append(entry)
            continue
        ordered += [(step, True) for step in _run(run, writers)]
        ordered.append((entry, False))
        run = []
    ordered += [(step, True) for step in _run(run, writers)]
    _compute_again(ordered, again, writers, bases)
    _localise(ordered, again, bases)
    return [step for step in ordered if not isinstance(step[0], Sweep) or step[0].parts]


def _written(entry: Entry) -> Iterator[int]:
    return (block for block, to in zip(entry.blocks, entry.shape.written, strict=True) if to)


def _run(entries: Sequence[Entry], writers: Mapping[int, int]) -> list[Entry | Sweep]:
    """The steps of consecutive native entries, in order.

    They are placed on levels. A level has ordinary steps first, and then sweeps. An entry has the first level on which
    all that it needs is there, but parts of sweeps come on no earlier level than those before them. So memory is not
    needed earlier than in the recorded order.
    """
    written = [block for entry in entries for block in _written(entry)]
    if len(set(written)) < len(written) or any(writers[block] > 1 for block in written):
        return list(entries)  # the order matters in other ways than by what is read
    plain: dict[int, list[Entry]] = defaultdict(list)
    sweeps: dict[tuple[int, Domain], Sweep] = {}
    ready: dict[int, int] = {}  # the level from which a block is there as a whole
    passing: dict[int, tuple[int, Domain, Use]] = {}  # the sweep that writes the block's images, and how
    now = 0
    domain: Domain | None = None
    for entry in entries:
        parts = parts_of(entry, domain)
        if parts is None:
            level = max([now, *(ready.get(block, 0) for block in entry.blocks)])
            plain[level].append(entry)
            ready |= dict.fromkeys(_written(entry), level)
            continue
        for half, part in enumerate(parts):
            domain = part.domain
            now += half  # the second half needs the sums of the first
            for use in part.uses:
                if not use.written:
                    writer = passing.get(use.block)
                    same = writer is not None and writer[1] == domain and use.moves_like(writer[2])
                    now = max(now, writer[0] if writer is not None and same else ready.get(use.block, 0))
            sweeps.setdefault((now, domain), Sweep(domain)).parts.append(part)
            for use in part.uses:
                if use.written:
                    ready[use.block] = now + 1
                    if use.by_image:
                        passing[use.block] = now, domain, use
    levels = sorted({*plain, *(level for level, _ in sweeps)})
    steps: list[Entry | Sweep] = []
    for level in levels:
        steps += plain[level]
        steps += [sweep for (at, _), sweep in sweeps.items() if at == level]
    return steps


def _compute_again(
    ordered: Sequence[tuple[Entry | Sweep, bool]],
    again: AbstractSet[int],
    writers: Mapping[int, int],
    bases: Sequence[Layout],
) -> None:
    """Let each sweep that reads the output of a batch norm compute it again, if only sweeps read it."""
    sweeps = [step for step, _ in ordered if isinstance(step, Sweep)]
    readers: dict[int, list[Sweep]] = defaultdict(list)
    elsewhere = {block for step, _ in ordered if not isinstance(step, Sweep) for block in step.blocks}
    for sweep in sweeps:
        for use in sweep.uses:
            if not use.spans(bases[use.block], sweep.domain):
                elsewhere.add(use.block)
            elif not use.written and sweep not in readers[use.block]:
                readers[use.block].append(sweep)
    for part in [part for sweep in sweeps for part in sweep.parts if part.again]:
        block = next(use.block for use in part.uses if use.written)
        fixed = all(writers[use.block] <= 1 for use in part.uses)
        alike = all(sweep.domain == part.domain for sweep in readers[block])
        if fixed and alike and block in again and block not in elsewhere:
            _repeat(part, block, sweeps, readers[block])


def _repeat(part: Part, block: int, sweeps: Sequence[Sweep], readers: Sequence[Sweep]) -> None:
    """Make this part run in each sweep that reads what it writes, and in no other."""
    for sweep in sweeps:
        if part in sweep.parts and sweep not in readers:
            sweep.parts.remove(part)
    for sweep in readers:
        if part not in sweep.parts:
            first = next(i for i, p in enumerate(sweep.parts) if any(use.block == block for use in p.uses))
            sweep.parts.insert(first, part)
        sweep.local.add(block)


def _localise(ordered: Iterable[tuple[Entry | Sweep, bool]], again: AbstractSet[int], bases: Sequence[Layout]) -> None:
    """Find the blocks that only one sweep needs, and give all sweeps the memory that they need besides."""
    used: Counter[int] = Counter()
    for step, _ in ordered:
        used.update(set(step.blocks))
    free = len(bases)
    states: dict[int, int] = {}
    for step, _ in ordered:
        if not isinstance(step, Sweep):
            continue
        whole = {use.block for use in step.uses if not (use.by_image and use.spans(bases[use.block], step.domain))}
        inside = {use.block for use in step.uses if use.written and use.by_image}
        step.local |= {block for block in inside & again if used[block] == 1} - whole
        for use in step.uses:
            if use.block in step.local and use.block not in step.of_local:
                step.of_local[use.block], free = free, free + 1
                step.memory[step.of_local[use.block]] = use.by_image * step.images
        for place, part in enumerate(step.parts):
            if part.turned_bytes:
                step.turned[place], free = free, free + 1
                step.memory[step.turned[place]] = part.turned_bytes
            if part.state is not None:
                if part.state not in states:
                    states[part.state], free = free, free + 1
                part.memory = states[part.state]
                step.memory[part.memory] = step.domain.tasks * state_bytes(part.channels, part.dtype)
