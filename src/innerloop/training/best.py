"""The learners with the best validations of a run. They can form an ensemble."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from innerloop.evaluation.evaluate import Evaluation
from innerloop.learner.files import CheckpointError
from innerloop.learner.learner import Learner
from innerloop.learner.schema import ANYTHING, Number, Record, Whole, check
from innerloop.methods.base import Method

__all__ = ["BestLearners", "Validated", "best_folders", "best_learners"]

FOLDER = "best"


class Validated(NamedTuple):
    """A validation: its iteration, its metric, and the mean score."""

    iteration: int
    metric: str
    score: float


class BestLearners:
    """The list of the best validations so far. Their learners are in ``best/ITERATION`` of the run's folder.

    Args:
        most: the number of validations to keep.
        entries: the validations of an earlier part of the run, the best first.
    """

    def __init__(self, most: int = 0, entries: Iterable[Validated] = ()) -> None:
        self.most, self.entries = most, list(entries)

    def note(self, iteration: int, result: Evaluation) -> bool:
        """Add a validation if it is among the best. Return whether it is. Of two equal ones, the earlier is better."""
        better = [i for i, entry in enumerate(self.entries) if result.better_than(entry.score)]
        place = better[0] if better else len(self.entries)
        if place >= self.most or math.isnan(result.mean):
            return False
        self.entries.insert(place, Validated(iteration, result.metric, result.mean))
        del self.entries[self.most :]
        return True

    def of(self, iteration: int) -> Validated | None:
        """The entry of an iteration, if it has one."""
        return next((entry for entry in self.entries if entry.iteration == iteration), None)

    def folder(self, run: Path, iteration: int) -> Path:
        """The folder of the learner of an iteration."""
        return run / FOLDER / str(iteration)

    def drop_others(self, run: Path) -> None:
        """Delete the learners that have no entry.

        Call this after the checkpoint is saved. Then every learner that a checkpoint mentions exists, whenever the run
        is killed.
        """
        named = {str(entry.iteration) for entry in self.entries}
        for path in sorted((run / FOLDER).glob("*")):
            if path.name not in named:
                shutil.rmtree(path)


def best_folders(run: Path) -> list[Path]:
    """The folders of a run's learners with the best validations, in no particular order."""
    return [path.parent for path in sorted((run / FOLDER).glob("*/learner.json"))]


def best_learners(
    run: Path, count: int, *, device: torch.device | str = "cpu", method: Method | None = None
) -> list[Learner]:
    """The learners of a run with the best validations, the best first.

    Args:
        run: the folder of a training run.
        count: the number of learners.
        device: the device of the learners.
        method: a method to use instead of the saved one.

    Raises:
        CheckpointError: the run has fewer learners, or one is damaged.
    """
    learners = [_validated_learner(folder, device, method) for folder in best_folders(run)]
    if len(learners) < count:
        raise CheckpointError(
            f"{run} has the learners of {len(learners)} validations, and an ensemble of {count} is asked for: take "
            "fewer, or train with validation on held-out tasks"
        )
    return sorted(learners, key=_rank)[:count]


VALIDATED = Record(
    {"about": Record({"iteration": Whole(0)}, {"val_accuracy": Number(), "val_loss": Number()}, others=ANYTHING)}
)
"""The fields that are saved with the learner of a validation."""


def _validated_learner(folder: Path, device: torch.device | str, method: Method | None) -> Learner:
    learner = Learner.load(folder, method=method, device=device)
    check({"about": learner.about}, VALIDATED, folder / "learner.json", f"delete {folder}, or train again")
    return learner


def _rank(learner: Learner) -> tuple[float, int]:
    """A key to sort learners by. The best learner has the lowest."""
    about = learner.about
    score = -about["val_accuracy"] if "val_accuracy" in about else about.get("val_loss", math.inf)
    return score, about["iteration"]
