"""THE outer loop: updates, validations and checkpoints, until training ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from innerloop.episode import EpisodeSampler
from innerloop.evaluation.evaluate import Evaluation
from innerloop.learner.learner import Learner
from innerloop.randomness import Stream, generator_at
from innerloop.training.callbacks import Callbacks, Training
from innerloop.training.checkpoint import CHECKPOINT_FILE
from innerloop.training.divergence import DivergedError, all_finite
from innerloop.training.folder import RunFolder
from innerloop.training.runlog import RunLog, RunningMeans
from innerloop.training.signals import TrainingStopped
from innerloop.training.validation import Validation, Validations

__all__ = ["OuterLoop", "RunFiles"]


@dataclass(frozen=True)
class RunFiles:
    """What a training writes into its folder, beside the metrics.

    Attributes:
        folder: the folder.
        learner: makes the learner of this moment. It takes what is to be saved ``about`` it.
        about: anything to keep with the saved learners.
    """

    folder: RunFolder
    learner: Callable[..., Learner]
    about: dict[str, Any]

    def save(self, training: Training, validations: Validations, *, learner: bool) -> None:
        """Write a checkpoint, and the learner of this moment where it is to be kept.

        Args:
            training: the training.
            validations: its validations. If one of the best was made now, its learner is saved.
            learner: whether this learner is the one to deploy.

        Raises:
            DivergedError: a parameter is not finite. Nothing is written then.
        """
        run, iteration = self.folder.path, training.iteration
        self.folder.check()
        if not all_finite(training.trainer.meta_params.values()):
            raise DivergedError(f"a parameter became infinite or NaN by iteration {iteration}")
        if learner:
            self.learner(about=self.about).save(run)
        if (entry := validations.learners.of(iteration)) is not None:
            scored = {**self.about, f"val_{entry.metric}": entry.score}
            self.learner(about=scored).save(validations.learners.folder(run, iteration))
        training.trainer.save(run / CHECKPOINT_FILE)
        validations.learners.drop_others(run)


@dataclass(frozen=True)
class OuterLoop:
    """The loop of one call of :meth:`innerloop.MetaTrainer.fit`.

    Attributes:
        training: the training, with its trainer.
        episodes: draws the meta-batches.
        evaluate: makes a validation of what is trained, as it is now.
        validations: the validations so far.
        window: the means since the last record.
        callbacks: what is called.
        log: what is shown on a terminal.
        files: what is saved. None saves nothing.
        save_every: the number of iterations between checkpoints.
        log_every: the number of iterations between records of the metrics.
    """

    training: Training
    episodes: EpisodeSampler
    evaluate: Callable[[Validation], Evaluation]
    validations: Validations
    window: RunningMeans
    callbacks: Callbacks
    log: RunLog
    files: RunFiles | None
    save_every: int
    log_every: int

    def run(self, received: Sequence[int]) -> None:
        """Train until all iterations are done, or a callback asks for the end.

        Args:
            received: the signals received so far. The first one stops training.

        Raises:
            DivergedError: the loss, the meta-gradient or a parameter is not finite.
            TrainingStopped: a signal was received. Everything is saved.
        """
        training, validations, validation = self.training, self.validations, self.training.validation
        keeps_best = validation is not None and validation.keep_best
        while True:
            improved = among_best = False
            if received:
                self._save(learner=not keeps_best or validations.best is None)
                raise TrainingStopped(received[0], training.iteration)
            finished = training.finished
            if validation is not None and validations.due(training.iteration, validation.every, finished=finished):
                improved, among_best = self._validate(validation)
                finished = training.finished  # a callback may have asked for it
            if finished or among_best or improved or training.iteration % self.save_every == 0:
                self._save(learner=improved or not keeps_best or validations.best is None)
            if finished:
                return
            self._iterate()

    def _iterate(self) -> None:
        """One outer update on a new meta-batch, and a record if it is time for one."""
        trainer = self.training.trainer
        generator = generator_at(trainer.seed, Stream.TRAINING, trainer.iteration, trainer.device)
        episode = self.episodes(generator)
        info = trainer.step(episode, generator)
        self.window.add(info)
        self.log.advance(episode.tasks)
        self.callbacks.iteration(self.training, info)
        if trainer.iteration % self.log_every == 0:
            rate = float(trainer.optimizer.param_groups[0]["lr"])
            means = self.window.taken()
            if not all(math.isfinite(value) for value in means.values()):
                raise DivergedError(f"the loss became infinite or NaN by iteration {trainer.iteration}")
            record = {"iteration": trainer.iteration, **means, "outer_lr": rate, "tasks_per_second": self.log.rate()}
            self.log.train(record)
            self.callbacks.record(self.training, record)

    def _validate(self, validation: Validation) -> tuple[bool, bool]:
        """Validate. Return whether the result is the best so far, and whether it is among the best that are kept."""
        training, result = self.training, self.evaluate(validation)
        improved, among_best = self.validations.note(training.iteration, result, validation)
        scores = {f"val_{result.metric}": result.mean, "val_loss": float(result.loss[:, -1].mean())}
        record = {"iteration": training.iteration, **scores, "val_ci95": result.ci95}
        self.log.validation(record, best=improved)
        self.callbacks.record(training, record)
        self.callbacks.validation(training, result)
        return improved, among_best

    def _save(self, *, learner: bool) -> None:
        if self.files is not None:
            self.files.save(self.training, self.validations, learner=learner)
