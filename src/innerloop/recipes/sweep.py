"""Sweeps: a recipe trained and evaluated for every combination of some settings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from innerloop.data.base import Split
from innerloop.evaluation.intervals import t_half_width
from innerloop.learner.files import load_json, write_atomically
from innerloop.learner.schema import ANYTHING, TEXT, Number, Record, check
from innerloop.recipes.build import DataSource, Running
from innerloop.recipes.config import Config
from innerloop.recipes.processes import side_by_side
from innerloop.recipes.run import CONFIG_FILE, evaluate_run, read_run, train_run
from innerloop.recipes.watching import Watching
from innerloop.training.divergence import DivergedError

__all__ = ["Cell", "Outcome", "Row", "Sweep", "rows_of", "run_sweep", "write_results"]

RESULT_FILE = "result.json"
SEED = "seed"


@dataclass(frozen=True)
class Cell:
    """One combination of settings.

    Attributes:
        settings: the values of the settings that vary, by name, as they were written.
        config: the whole configuration.
        folder: the folder of its run.
    """

    settings: Mapping[str, str]
    config: Config
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: the cell.
        result: its evaluation as JSON, see :meth:`innerloop.recipes.RunResult.as_json`; None if training diverged.
        error: why there is no result.
    """

    cell: Cell
    result: Mapping[str, Any] | None
    error: str = ""

    @property
    def score(self) -> float:
        """The accuracy, or for regression the loss; NaN without a result."""
        return math.nan if self.result is None else float(self.result[_metric(self.cell)])


@dataclass(frozen=True)
class Sweep:
    """How the cells of a sweep are run.

    Attributes:
        recipe: the name of the recipe.
        source: the data.
        running: how tasks are run.
        watching: early stopping and loggers of each run.
        split: the split of the classes that each run is evaluated on.
        jobs: the number of cells that are trained at a time, each in a process of its own if there are several.
        threads: the number of CPU threads of each process. None shares the cores among them.
        progress: whether to show progress bars. None shows them only on a terminal, and only with one job.
    """

    recipe: str
    source: DataSource
    running: Running = Running()  # noqa: RUF009 - frozen
    watching: Watching = Watching()  # noqa: RUF009 - frozen
    split: Split = "test"
    jobs: int = 1
    threads: int | None = None
    progress: bool | None = None

    def outcome(self, cell: Cell) -> Outcome:
        """Train and evaluate one cell, or go on where an earlier sweep left it.

        Raises:
            ConfigError: the folder holds a run with other settings.
            TrainingStopped: a signal asked to stop. Everything is saved.
        """
        path = cell.folder / RESULT_FILE
        if path.exists() and read_run(cell.folder).config == cell.config:
            result = load_json(path)
            kind = Record({"split": TEXT, _metric(cell): Number(finite=False)}, others=ANYTHING)
            check(result, kind, path, "delete it, and it is made again")
            if result["split"] == self.split:
                return Outcome(cell, result)
        progress = False if self.jobs > 1 else self.progress
        again = (cell.folder / CONFIG_FILE).exists()
        try:
            train_run(
                *(self.recipe, cell.config, cell.folder, self.source),
                running=self.running,
                watching=self.watching,
                resume=again,
                progress=progress,
            )
        except DivergedError as error:
            return Outcome(cell, None, str(error))
        result = evaluate_run(cell.folder, self.source, split=self.split).as_json()
        write_atomically(path, (json.dumps(result, indent=2) + "\n").encode())
        return Outcome(cell, result)


def run_sweep(sweep: Sweep, cells: Sequence[Cell], say: Callable[[str], None]) -> list[Outcome]:
    """Train and evaluate every cell. Cells that an earlier sweep finished are read from their folders.

    Args:
        sweep: how they are run.
        cells: the cells.
        say: is told when a cell is done.

    Raises:
        ConfigError: a folder holds a run with other settings.
        CheckpointError: a folder holds a damaged run.
        DataError: the data is absent or damaged.
        TrainingStopped: a signal asked to stop. Everything is saved.
    """
    found: dict[Path, Outcome] = {}
    for outcome in _outcomes(sweep, cells):
        found[outcome.cell.folder] = outcome
        metric = _metric(outcome.cell)
        said = f"diverged: {outcome.error}" if outcome.result is None else f"{metric} {_shown(outcome.score, metric)}"
        say(f"{len(found)} of {len(cells)}: {outcome.cell.folder.name}: {said}")
    return [found[cell.folder] for cell in cells]


def _outcomes(sweep: Sweep, cells: Sequence[Cell]) -> Iterator[Outcome]:
    if sweep.jobs == 1:
        yield from map(sweep.outcome, cells)
        return
    threads = sweep.threads or max(1, torch.get_num_threads() // sweep.jobs)
    yield from side_by_side(sweep.outcome, cells, sweep.jobs, threads)


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seeds only.

    Attributes:
        settings: the values of the other settings.
        scores: the score of each seed.
        diverged: the number of seeds whose training diverged. They are not among the scores.
    """

    settings: Mapping[str, str]
    scores: Sequence[float]
    diverged: int

    @property
    def mean(self) -> float:
        """The mean over seeds; NaN if all diverged."""
        return sum(self.scores) / len(self.scores) if self.scores else math.nan

    @property
    def ci95(self) -> float:
        """Half the width of Student's 95 % interval of the mean over seeds; NaN for fewer than two."""
        return t_half_width(self.scores)


def rows_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """Gather the seeds of each combination of the other settings."""
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for outcome in outcomes:
        others = tuple((name, value) for name, value in outcome.cell.settings.items() if name != SEED)
        groups.setdefault(others, []).append(outcome)
    return [
        Row(dict(key), [o.score for o in group if o.result is not None], sum(o.result is None for o in group))
        for key, group in groups.items()
    ]


def write_results(folder: Path, sweep: Sweep, outcomes: Sequence[Outcome]) -> str:
    """Write ``results.csv`` (a line for each cell) and ``results.json``, and return the table to print.

    Raises:
        OSError: a file cannot be written.
    """
    rows, metric = rows_of(outcomes), _metric(outcomes[0].cell)
    names = list(outcomes[0].cell.settings)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, metric, "ci95_over_tasks", "run", "error"])
    for outcome in outcomes:
        numbers = [outcome.score, outcome.result["ci95"]] if outcome.result is not None else ["", ""]
        writer.writerow([*outcome.cell.settings.values(), *numbers, outcome.cell.folder, outcome.error])
    write_atomically(folder / "results.csv", text.getvalue().encode())
    content = {
        "recipe": sweep.recipe,
        "split": sweep.split,
        "metric": metric,
        "rows": [
            {
                "settings": dict(row.settings),
                "mean": _finite(row.mean),
                "ci95_over_seeds": _finite(row.ci95),
                "scores": list(row.scores),
                "diverged": row.diverged,
            }
            for row in rows
        ],
    }
    write_atomically(folder / "results.json", (json.dumps(content, indent=2) + "\n").encode())
    return _table(rows, metric)


def _table(rows: Sequence[Row], metric: str) -> str:
    cells = [[*rows[0].settings, f"{metric}, mean over seeds", "95 % interval (t)", "seeds"]]
    for row in rows:
        interval = "one seed: none" if math.isnan(row.ci95) else f"± {_shown(row.ci95, metric)}"
        seeds = f"{len(row.scores)}" + (f", and {row.diverged} diverged" if row.diverged else "")
        cells.append([*row.settings.values(), _shown(row.mean, metric), interval if row.scores else "", seeds])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _metric(cell: Cell) -> str:
    return "loss" if cell.config.regression else "accuracy"


def _shown(value: float, metric: str) -> str:
    if math.isnan(value):
        return "none"
    return f"{100 * value:.2f} %" if metric == "accuracy" else f"{value:.4g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
