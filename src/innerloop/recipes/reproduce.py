"""Reproduction: train and test the published cells, a little at a time, and keep what was found.

The folder of a reproduction has a folder for each training, in it one for each seed, which is a run. Beside the files
of the run, it has a JSON file for each cell that the run was tested on.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from innerloop.bench.report import machine
from innerloop.evaluation.intervals import t_half_width
from innerloop.learner.files import load_json, write_atomically
from innerloop.learner.learner import Learner
from innerloop.learner.schema import ANYTHING, Number, Record, check
from innerloop.metagrad.base import Info
from innerloop.recipes.build import DataSource
from innerloop.recipes.published import PublishedCell, PublishedTraining
from innerloop.recipes.run import CONFIG_FILE, read_run, train_run
from innerloop.training.best import best_learners
from innerloop.training.callbacks import Callback, Training
from innerloop.training.divergence import DivergedError
from innerloop.training.metrics import METRICS_FILE, read_metrics
from innerloop.training.signals import TrainingStopped

__all__ = ["Budget", "Reproduction", "Standing", "reproduce", "standing"]

RESULT = Record({"protocol": ANYTHING, "mean": Number(), "ci95": Number()}, others=ANYTHING)


class Budget(Callback):
    """Stops training when the time is over, as a signal to the process does: everything is saved.

    Args:
        minutes: the time from now. None sets no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._asked = False

    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._end

    def on_start(self, training: Training) -> None:
        """A new training may be stopped once more."""
        self._asked = False

    def on_iteration(self, training: Training, info: Info) -> None:
        """Ask training to stop if the time is over."""
        if self.over() and not self._asked:
            self._asked = True
            signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced, and where.

    Args:
        cells: the cells.
        seeds: the seeds. All cells are done with the first before any is with the second.
        out: the folder.
        source: the data.
    """

    cells: Sequence[PublishedCell]
    seeds: Sequence[int]
    out: Path
    source: DataSource

    def folder(self, training: PublishedTraining, seed: int) -> Path:
        """The folder of a training with a seed."""
        return self.out / training.name / f"seed-{seed}"

    def result_file(self, cell: PublishedCell, seed: int) -> Path:
        """The file with the test of a cell."""
        return self.folder(cell.training, seed) / f"test-{cell.name}.json"

    def jobs(self) -> Iterator[tuple[PublishedTraining, int, list[PublishedCell]]]:
        """Each training and seed, with the cells that it serves, in the order in which they are done."""
        groups: dict[str, list[PublishedCell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.training.name, []).append(cell)
        for seed in self.seeds:
            for cells in groups.values():
                yield cells[0].training, seed, cells


def reproduce(work: Reproduction, budget: Budget, say: Callable[[str], None], *, progress: bool | None = None) -> bool:
    """Train and test what is not done yet, until all is done or the time is over.

    Args:
        work: what is reproduced.
        budget: the time.
        say: is told what is begun, and what was found.
        progress: whether to show progress bars. None shows them only on a terminal.

    Returns:
        Whether everything is done. A training that diverged counts as done: it is told, and has no result.

    Raises:
        ConfigError: a folder holds a run with other settings.
        CheckpointError: a folder holds a damaged run.
        DataError: the data is absent or damaged.
        TrainingStopped: a signal asked to stop, and not the time. Everything is saved.
    """
    for training, seed, cells in work.jobs():
        missing = [cell for cell in cells if read_result(work, cell, seed) is None]
        if not missing:
            continue
        if budget.over():
            return False
        folder = work.folder(training, seed)
        say(f"{training.name}, seed {seed}: {training.config.iterations:,} iterations in all")
        config = training.config.override(seed=seed)
        resume = (folder / CONFIG_FILE).exists()
        try:
            train_run(
                *(training.recipe, config, folder, work.source), resume=resume, callbacks=[budget], progress=progress
            )
        except DivergedError as error:
            say(f"{training.name}, seed {seed}: {error}")
            continue
        except TrainingStopped as stopped:
            if not budget.over():
                raise
            say(f"{training.name}, seed {seed}: the time is over after {stopped.iteration:,} iterations; all is saved")
            return False
        for cell in missing:
            if budget.over():
                return False
            found = measure(work, cell, seed)
            say(f"{cell.name}, seed {seed}: {found['mean']:.4f} ± {found['ci95']:.4f}")
    return True


def protocol(cell: PublishedCell) -> dict[str, Any]:
    """How a cell is tested, as JSON."""
    config = cell.test_config(0)
    return {
        "dataset": config.dataset,
        "dataset_settings": {name: value for name, value in config.dataset_settings.items() if value is not None},
        "ways": None if config.regression else config.ways,
        "shots": config.shots,
        "queries": config.test_queries,
        "tasks": config.test_tasks,
        "norm": cell.norm,
        "inner_steps": config.build_method().test.steps,
        "ensemble": cell.ensemble,
    }


def measure(work: Reproduction, cell: PublishedCell, seed: int) -> dict[str, Any]:
    """Test the learner of a finished run on a cell, and keep the result."""
    folder, config = work.folder(cell.training, seed), cell.test_config(seed)
    source = replace(work.source, progress=False)
    method = config.build_method()  # it may depend on the ways, which may be others than in the training
    if cell.ensemble == 1:
        learner, others = Learner.load(folder, method=method, device=source.device), []
    else:
        learner, *others = best_learners(folder, cell.ensemble, device=source.device, method=method)
    episodes = source.evaluation(config, "test")
    started = time.monotonic()
    result = learner.evaluate(
        episodes, tasks=config.test_tasks, norm=cell.norm, seed=seed, every_step=False, others=others
    )
    found = {
        "cell": cell.name,
        "seed": seed,
        "metric": result.metric,
        "mean": result.mean,
        "ci95": result.ci95,
        "protocol": protocol(cell),
        "kept_iteration": learner.about.get("iteration"),
        "test_seconds": round(time.monotonic() - started, 1),
        "hardware": hardware(),
    }
    write_atomically(work.result_file(cell, seed), (json.dumps(found, indent=2) + "\n").encode())
    return found


def read_result(work: Reproduction, cell: PublishedCell, seed: int) -> dict[str, Any] | None:
    """The test of a cell, if there is one of this training and by this protocol."""
    path = work.result_file(cell, seed)
    if not path.exists() or read_run(path.parent).config != cell.training.config.override(seed=seed):
        return None
    found = load_json(path)
    check(found, RESULT, path, "delete it, and it is made again")
    return found if found["protocol"] == protocol(cell) else None


def hardware() -> str:
    """The machine and the version of PyTorch, in a few words."""
    where = machine()
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__.partition('+')[0]}"
    threads = "one thread" if where["threads"] == 1 else f"{where['threads']} threads"
    cpus = os.cpu_count()
    return (
        f"{where['cpu']} ({cpus} CPUs, {platform.system()}), {threads}, PyTorch {torch.__version__.partition('+')[0]}"
    )


@dataclass(frozen=True)
class Standing:
    """What is known of a cell.

    Args:
        cell: the cell.
        results: the tests of the finished seeds.
        done: the number of iterations that the first seed has done.
        minutes: the minutes that the training of the first seed has taken.
    """

    cell: PublishedCell
    results: Sequence[Mapping[str, Any]]
    done: int
    minutes: float

    @property
    def mean(self) -> float:
        """The mean over seeds, in % for accuracies; NaN without a result."""
        scale = 1.0 if self.cell.training.config.regression else 100.0
        means = [scale * result["mean"] for result in self.results]
        return sum(means) / len(means) if means else math.nan

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % interval: of one seed over its tasks, of several over the seeds."""
        scale = 1.0 if self.cell.training.config.regression else 100.0
        if len(self.results) == 1:
            return scale * float(self.results[0]["ci95"])
        return t_half_width([scale * result["mean"] for result in self.results])

    @property
    def status(self) -> str:
        """``finished``, ``unfinished`` or ``not begun``."""
        return "finished" if self.results else "unfinished" if self.done else "not begun"

    def reaches_paper(self) -> bool | None:
        """Whether the mean is at least the paper's, to the paper's decimals; None if one of the two is absent."""
        theirs = self.cell.paper.mean
        if theirs is None or not self.results:
            return None
        decimals = len(str(theirs).partition(".")[2])
        return round(self.mean, decimals) >= theirs


def standing(work: Reproduction, cell: PublishedCell) -> Standing:
    """What is known of a cell from the files of the reproduction."""
    results = [found for seed in work.seeds if (found := read_result(work, cell, seed)) is not None]
    done, minutes = 0, 0.0
    folder = work.folder(cell.training, work.seeds[0])
    if (folder / METRICS_FILE).exists() and read_run(folder).config == cell.training.config.override(
        seed=work.seeds[0]
    ):
        before = 0
        for record in read_metrics(folder):
            done = max(done, int(record["iteration"]))
            if "tasks_per_second" in record:
                tasks = (int(record["iteration"]) - before) * cell.training.config.tasks
                minutes += tasks / max(record["tasks_per_second"], 1e-9) / 60
                before = int(record["iteration"])
    return Standing(cell, results, done, minutes)
