"""Callbacks: code of your own at clear moments of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerloop.evaluation.evaluate import Evaluation
from innerloop.learner.files import CheckpointError
from innerloop.metagrad.base import Info
from innerloop.randomness import RandomState
from innerloop.training.validation import Validation

if TYPE_CHECKING:
    from innerloop.training.trainer import MetaTrainer

__all__ = ["Callback", "Callbacks", "Training"]


@dataclass
class Training:
    """A training in progress, as callbacks see it.

    Attributes:
        trainer: the trainer.
        iterations: the number of iterations at which training ends.
        validation: how training is validated, if it is.
        folder: the run's folder, if it has one.
        say: prints a line on standard error, beside the progress bar.
        stop_reason: the reason why training stops early; None as long as no callback has asked for it.
    """

    trainer: MetaTrainer
    iterations: int
    validation: Validation | None
    folder: Path | None
    say: Callable[[str], None]
    stop_reason: str | None = None

    @property
    def iteration(self) -> int:
        """The number of iterations that are done."""
        return self.trainer.iteration

    @property
    def finished(self) -> bool:
        """Whether training ends now: all iterations are done, or a callback has asked for it."""
        return self.stop_reason is not None or self.iteration >= self.iterations

    def stop(self, reason: str) -> None:
        """Stop training after this iteration. Everything is validated and saved, as at an ordinary end.

        Args:
            reason: why, in a few words. Training prints it. Of several reasons, the first counts.
        """
        if self.stop_reason is None:
            self.stop_reason = reason
            self.say(f"training ends after iteration {self.iteration}: {reason}")


class Callback:
    """Code of your own at clear moments of training. Override the moments that you need; the others do nothing.

    An exception in a callback ends training. It keeps its type, and a note in its traceback names the callback and the
    moment. A callback cannot change the random numbers that training draws from PyTorch's global generators.

    Example:
        >>> import torch, innerloop as il
        >>> class StopAtGoodLoss(il.Callback):
        ...     def on_iteration(self, training, info):
        ...         if training.iteration == 2:
        ...             training.stop("two are enough")
        >>> net = il.nets.mlp()
        >>> trainer = il.MetaTrainer(net, il.maml(0.01), torch.optim.Adam, loss_fn=torch.nn.functional.mse_loss)
        >>> trainer.fit(il.data.sinusoids().episodes(), 100, callbacks=[StopAtGoodLoss()], progress=False)
        >>> trainer.iteration
        2
    """

    def on_start(self, training: Training) -> None:
        """Training begins or resumes. What a checkpoint holds is already loaded."""

    def on_iteration(self, training: Training, info: Info) -> None:
        """An outer update was made.

        Args:
            training: the training.
            info: the losses and accuracies of its tasks. These tensors stay on the device until somebody reads them.
        """

    def on_validation(self, training: Training, result: Evaluation) -> None:
        """A validation was made.

        Args:
            training: the training.
            result: the scores of its tasks.
        """

    def on_record(self, training: Training, record: Mapping[str, float]) -> None:
        """There are new numbers to log.

        Args:
            training: the training.
            record: the numbers by name. ``iteration`` is always there. The names of validation begin with ``val_``. The
                others are means over the iterations since the last such record.
        """

    def on_end(self, training: Training, error: BaseException | None) -> None:
        """Training ended. This is called after every start, so that files can be closed.

        Args:
            training: the training.
            error: the exception that ended it, if one did. :class:`innerloop.TrainingStopped` is a signal.
        """

    def state(self) -> dict[str, Any]:
        """What the run's checkpoint keeps for this callback: tensors, plain values, and containers of them."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave when the checkpoint was saved. A run that resumes calls this.

        Raises:
            ValueError: the state is not one of this callback.
        """


class Callbacks:
    """The callbacks of a training.

    Args:
        callbacks: the callbacks, in the order in which they are called.
        states: the states of a checkpoint, by callback.

    Attributes:
        untaken: the states of callbacks that are not among these. They stay in the checkpoint.

    Raises:
        TypeError: an object is no callback.
        CheckpointError: a state does not fit its callback.
    """

    def __init__(self, callbacks: Sequence[Callback] = (), states: Mapping[str, dict[str, Any]] | None = None) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks holds {callback!r}, which is not an innerloop.Callback; derive it from one")
        self._named = dict(zip(_names(callbacks), callbacks, strict=True))
        self._watch_iterations = any(type(each).on_iteration is not Callback.on_iteration for each in callbacks)
        self.untaken = {name: state for name, state in (states or {}).items() if name not in self._named}
        for name, callback in self._named.items():
            if states and name in states:
                try:
                    callback.restore(states[name])
                except (ValueError, TypeError, KeyError) as error:
                    raise CheckpointError(
                        f"the checkpoint's state of the callback {name} does not fit: {error}; leave the callback out, "
                        "or train into a new folder"
                    ) from error

    def state(self) -> dict[str, dict[str, Any]]:
        """The states of all callbacks, for a checkpoint."""
        states = {name: callback.state() for name, callback in self._named.items()}
        return {**self.untaken, **{name: state for name, state in states.items() if state}}

    def iteration(self, training: Training, info: Info) -> None:
        """Tell all that an outer update was made."""
        if self._watch_iterations:
            self._tell(training, "on_iteration", lambda callback: callback.on_iteration(training, info))

    def validation(self, training: Training, result: Evaluation) -> None:
        """Tell all that a validation was made."""
        self._tell(training, "on_validation", lambda callback: callback.on_validation(training, result))

    def record(self, training: Training, record: Mapping[str, float]) -> None:
        """Tell all that there are new numbers."""
        self._tell(training, "on_record", lambda callback: callback.on_record(training, record))

    @contextmanager
    def during(self, training: Training) -> Iterator[None]:
        """A context for the training. Those that were started are told its end, the last first, whatever happens."""
        started: list[Callback] = []
        error: BaseException | None = None

        def start(callback: Callback) -> None:
            started.append(callback)
            callback.on_start(training)

        try:
            self._tell(training, "on_start", start)
            if self.untaken:
                training.say(f"this run had the callbacks {', '.join(self.untaken)}, which are not given now")
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end(training, list(self._named)[: len(started)], error)

    def _tell(self, training: Training, moment: str, call: Callable[[Callback], None]) -> None:
        """Call all callbacks. Their errors name them, and PyTorch's random numbers are as before afterwards."""
        random = RandomState.now(training.trainer.device)
        try:
            for name, callback in self._named.items():
                with _noted(name, moment, training):
                    call(callback)
        finally:
            random.restore()

    def _end(self, training: Training, started: list[str], error: BaseException | None) -> None:
        failed: Exception | None = None
        for name in reversed(started):
            try:
                with _noted(name, "on_end", training):
                    self._named[name].on_end(training, error)
            except Exception as raised:
                if error is not None:  # it must not hide what ended the training
                    error.add_note(f"then the callback {name} failed in on_end: {type(raised).__name__}: {raised}")
                failed = failed or raised
        if failed is not None and error is None:
            raise failed


def _names(callbacks: Sequence[Callback]) -> list[str]:
    """The names of the classes. The second callback of a class gets the number 2."""
    kinds = [type(callback).__name__ for callback in callbacks]
    earlier = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
    return [f"{kind} {count + 1}" if count else kind for kind, count in zip(kinds, earlier, strict=True)]


@contextmanager
def _noted(name: str, moment: str, training: Training) -> Iterator[None]:
    """A context for a call of a callback. An error in it gets a note that names the callback."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised by the callback {name} in {moment}, after iteration {training.iteration}")
        raise
