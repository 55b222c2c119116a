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
    """A setting of the benchmark is out of range, or two settings cannot be combined."""


@dataclass(frozen=True)
class Options:
    """The settings of a benchmark: what to measure, and how."""

    what: What = "maml"
    """The computation: the exact meta-gradient, the first-order one, or Reptile's displacement."""
    rows: tuple[int, ...] = ()
    """The numbers of the rows to measure; all rows if not given."""
    sizes: tuple[int, int, int, int, int] | None = None
    """A row of your own: tasks, ways, shots and queries of each class, inner steps."""
    network: NetworkName = "omniglot"
    """The network of --sizes and of a sweep."""
    sweep: Literal["steps", "tasks", "ways"] | None = None
    """Vary one size. All others are as in --sizes (8 5 1 1 1 if not given)."""
    values: tuple[int, ...] = ()
    """The values of the sweep. If not given: powers of two up to 128 steps or 64 tasks, or 2 to 40 ways."""
    rounds: int = 5
    """How often each contender is timed."""
    threads: int | None = None
    """The number of threads of torch, for all contenders; PyTorch's default if not given."""
    clock: Clock = "wall"
    """The clock: wall, or processor, which other work on the machine disturbs less (use it with --threads 1)."""
    inner_lr: float | None = None
    """The inner learning rate. If not given: 0.4 for one step, 0.1 for several, 0.01 for more than ten."""
    executions: tuple[Execution, ...] = ()
    """Further ways for innerloop to run the tasks: serial, batched, or a number of tasks at a time."""
    estimators: tuple[Literal["checkpointed", "mixed_mode"], ...] = ()
    """Further estimators of innerloop's exact meta-gradient, which need less memory."""
    one_off: bool = True
    """Also time innerloop with a new engine for each call, as il.meta_gradient does."""
    peers: bool = True
    """Measure every peer that is installed."""
    memory: bool = True
    """Measure the first call and the peak memory of each contender in a process of its own."""
    throughput: bool = False
    """Measure whole training: sampling, the meta-gradient, the outer step and logging."""
    iterations: int = 100
    """The number of iterations of whole training to measure."""
    data_dir: Path | None = None
    """The folder of Omniglot for --throughput.

    If not given: INNERLOOP_DATA, or the user's cache folder. Without Omniglot, glyphs are used.
    """
    seed: int = 0
    """The seed of the network, the images and the tasks."""

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
            raise BenchError("--estimators compute the exact meta-gradient; use them with --what maml")
        fewest = 2 if self.sweep == "ways" else 1
        self._check("values", all(value >= fewest for value in self.values), f"whole numbers of at least {fewest}")
        if self.values and self.sweep is None:
            raise BenchError("--values needs --sweep; name the size to vary: --sweep steps, tasks or ways")
        if self.rows and (self.sizes is not None or self.sweep is not None):
            raise BenchError("--rows chooses existing rows; --sizes and --sweep make new rows: use one of them")
        if self.throughput and self.network == "mini-imagenet":
            raise BenchError("--throughput trains on characters; choose --network omniglot or maxpool")
        if self.throughput and (self.sweep is not None or self.rows):
            raise BenchError("--throughput measures whole training; leave out --rows and --sweep")

    @property
    def ways(self) -> tuple[Execution | str, ...]:
        """Innerloop's further configurations. Each is a contender of its own."""
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
