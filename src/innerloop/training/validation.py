"""``Validation``: how a training run is validated."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.episode import EpisodeSampler

__all__ = ["Validation"]


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
