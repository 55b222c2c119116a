"""``Validation``: how a training run is validated. ``Validations``: what its validations gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from innerloop.episode import EpisodeSampler
from innerloop.evaluation.evaluate import Evaluation
from innerloop.training.best import BestLearners, Validated

__all__ = ["Validation", "Validations"]


@dataclass(frozen=True)
class Validation:
    """Validation during training.

    Args:
        episodes: draws the tasks. They are the same in every validation.
        tasks: the number of tasks.
        every: the number of iterations between validations.
        keep_best: whether the run keeps the learner with the best validation. Otherwise it keeps the latest.
        keep: with ``keep_best``, the number of best learners that are also kept for an ensemble.
    """

    episodes: EpisodeSampler
    tasks: int = 200
    every: int = 500
    keep_best: bool = True
    keep: int = 5


class Validations:
    """The validations of a run so far.

    Attributes:
        best: the best score, if the run keeps the best learner; None as long as there is none.
        last: the iteration of the last validation.
        learners: the list of the best validations, whose learners are kept.
    """

    def __init__(self) -> None:
        self.best: float | None = None
        self.last = 0
        self.learners = BestLearners()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the fields of a checkpoint."""
        self.best, self.last = state["best"], state["validated"]
        self.learners = BestLearners(entries=(Validated(*entry) for entry in state.get("best_learners", ())))

    def state(self) -> dict[str, Any]:
        """The fields of a checkpoint."""
        return {
            "best": self.best,
            "validated": self.last,
            "best_learners": [tuple(entry) for entry in self.learners.entries],
        }

    def due(self, iteration: int, every: int, *, finished: bool) -> bool:
        """Whether to validate now. A run that was stopped before a validation does it after resuming.

        Args:
            iteration: the number of iterations that are done.
            every: the number of iterations between validations.
            finished: whether training ends now.

        Example:
            >>> Validations().due(10, 5, finished=False), Validations().due(11, 5, finished=False)
            (True, False)
        """
        return 0 < iteration != self.last and (finished or iteration % every == 0)

    def note(self, iteration: int, result: Evaluation, validation: Validation) -> tuple[bool, bool]:
        """Add a validation. Return whether it is the best so far, and whether it is among the best that are kept."""
        self.last = iteration
        improved = validation.keep_best and result.better_than(self.best)
        if improved:
            self.best = result.mean
        self.learners.most = validation.keep if validation.keep_best else 0
        return improved, self.learners.note(iteration, result)
