"""The settings of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from innerloop.bench.contenders import ONE_OFF
from innerloop.bench.peers import What
from innerloop.bench.rows import ROWS, NetworkName, Row, Sizes, rows_of
from innerloop.bench.timing import Clock
from innerloop.engine.plans import Execution

__all__ = ["BenchError", "Options"]

SWEEPS: dict[str, tuple[int, ...]] = {
    "steps": (1, 2, 4, 8, 16, 32, 64, 128),
    "tasks": (1, 2, 4, 8, 16, 32, 64),
    "ways": (2, 5, 10, 20, 40),
}
BASE = Sizes(8, 5, 1, 1, 1)


class BenchError(ValueError):
    """A setting of the benchmark is out of range, or settings do not fit together."""


@dataclass(frozen=True)
class Options:
    """What is measured, and how."""

    what: What = "maml"
    """What is computed: the exact meta-gradient, the first-order one, or Reptile's displacement."""
    rows: tuple[int, ...] = ()
    """Which of the rows, by number; all if not given."""
    sizes: tuple[int, int, int, int, int] | None = None
    """A row of your own instead: tasks, ways, shots and queries of each class, inner steps."""
    network: NetworkName = "omniglot"
    """The network of --sizes and of a sweep."""
    sweep: Literal["steps", "tasks", "ways"] | None = None
    """Vary one size, all else being as in --sizes (8 5 1 1 1 if not given)."""
    values: tuple[int, ...] = ()
    """The values of the sweep; powers of two up to 128 steps or 64 tasks, 2 to 40 ways if not given."""
    rounds: int = 5
    """How often each contender is timed."""
    threads: int | None = None
    """Threads of torch, for all contenders; PyTorch's default if not given."""
    clock: Clock = "wall"
    """What times them: wall, or the processor, which other work on the machine disturbs less (with --threads 1)."""
    inner_lr: float | None = None
    """Inner learning rate; 0.4 for one step, 0.1 for several, 0.01 for more than ten if not given."""
    executions: tuple[Execution, ...] = ()
    """Further ways for innerloop to run the tasks: serial, batched, or so many at a time."""
    estimators: tuple[Literal["checkpointed", "mixed_mode"], ...] = ()
    """Further exact meta-gradients of innerloop, which need less memory."""
    one_off: bool = True
    """Time innerloop with a new engine for each call, too, as il.meta_gradient makes one."""
    peers: bool = True
    """Measure every peer that is installed."""
    memory: bool = True
    """Measure the first call and the peak memory of each contender in a process of its own."""
    throughput: bool = False
    """Measure whole training instead: sampling, adapting, the outer step and logging."""
    iterations: int = 100
    """Iterations of whole training that are measured."""
    data_dir: Path | None = None
    """Folder of Omniglot for --throughput; INNERLOOP_DATA or the user's cache folder if not given, glyphs if
    it is in neither."""
    seed: int = 0
    """Seed of the network, the images and the tasks."""

    def __post_init__(self) -> None:
        for row in self.rows:
            self._check("rows", 1 <= row <= len(ROWS), f"numbers from 1 to {len(ROWS)}")
        for name in ("rounds", "iterations"):
            self._check(name, getattr(self, name) >= 1, "a whole number of at least 1")
        self._check("threads", self.threads is None or self.threads >= 1, "a whole number of at least 1")
        self._check("seed", self.seed >= 0, "a whole number of at least 0")
        self._check("inner_lr", self.inner_lr is None or 0 < self.inner_lr < float("inf"), "a positive number")
        least = 0 if self.what == "reptile" else 1
        if self.sizes is not None:
            tasks, ways, shots, queries, steps = self.sizes
            good = tasks >= 1 and ways >= 2 and shots >= 1 and queries >= least and steps >= 1
            self._check(
                "sizes", good, f"tasks, at least 2 ways, shots, at least {least} queries, steps; each at least 1"
            )
        self._check("executions", 0 not in self.executions, "serial, batched, auto, or positive numbers of tasks")
        if self.estimators and self.what != "maml":
            raise BenchError("--estimators are of the exact meta-gradient; use them with --what maml")
        fewest = 2 if self.sweep == "ways" else 1
        self._check("values", all(value >= fewest for value in self.values), f"whole numbers of at least {fewest}")
        if self.values and self.sweep is None:
            raise BenchError("--values belongs to --sweep; name what is to vary: --sweep steps, tasks or ways")
        if self.rows and (self.sizes is not None or self.sweep is not None):
            raise BenchError("--rows names rows there are; --sizes and --sweep make rows of your own: use one of them")
        if self.throughput and self.network == "mini-imagenet":
            raise BenchError("--throughput trains on characters; choose --network omniglot or maxpool")
        if self.throughput and (self.sweep is not None or self.rows):
            raise BenchError("--throughput measures whole training; it goes without --rows and --sweep")

    @property
    def ways(self) -> tuple[Execution | str, ...]:
        """What innerloop does beside its default, each a contender of its own."""
        return (*((ONE_OFF,) if self.one_off else ()), *self.executions, *self.estimators)

    def chosen(self) -> list[Row]:
        """The rows to measure."""
        if self.sweep is not None:
            base = Sizes(*self.sizes) if self.sizes else BASE
            values = self.values or SWEEPS[self.sweep]
            rows = tuple(Row(self.network, _with(base, self.sweep, value)) for value in values)
        elif self.sizes is not None:
            rows = (Row(self.network, Sizes(*self.sizes)),)
        else:
            rows = tuple(ROWS[number - 1] for number in self.rows) or ROWS
        return rows_of(self.what, rows)

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            given = getattr(self, name)
            shown = " ".join(map(str, given)) if isinstance(given, tuple) else given
            raise BenchError(f"--{name.replace('_', '-')} is {shown}; it must be {expected}")


def _with(sizes: Sizes, field: str, value: int) -> Sizes:
    return Sizes(**{**vars(sizes), field: value})
