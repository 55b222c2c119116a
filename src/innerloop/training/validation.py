"""Validation during training."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.episode import EpisodeSampler

__all__ = ["Validation"]


@dataclass(frozen=True)
class Validation:
    """Validation during training.

    Args:
        episodes: draws the tasks; they are the same at every validation.
        tasks: how many.
        every: iterations between validations.
        keep_best: whether the learner kept is the best by validation, or the latest.
        keep: with ``keep_best``, how many of the best learners are kept besides, for an ensemble.
    """

    episodes: EpisodeSampler
    tasks: int = 200
    every: int = 500
    keep_best: bool = True
    keep: int = 5
