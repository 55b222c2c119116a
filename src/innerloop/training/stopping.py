"""``EarlyStopping``: end training when validation no longer improves."""

from __future__ import annotations

import math
from typing import Any

from innerloop.evaluation.evaluate import Evaluation
from innerloop.learner.schema import Maybe, Number, Record, Whole
from innerloop.training.callbacks import Callback, Training

__all__ = ["EarlyStopping"]

STATE = Record({"best": Maybe(Number()), "without": Whole(0)})


class EarlyStopping(Callback):
    """End training after several validations in a row without an improvement.

    It counts with the score of validation: the accuracy, or for regression the loss. Its count is in the run's
    checkpoint, so that a run which was killed and resumed stops where it would have stopped.

    Args:
        patience: the number of validations in a row without an improvement that end training.
        least: the least difference to the best score so far that counts as an improvement. Accuracies are fractions.

    Raises:
        ValueError: ``patience`` is below 1, or ``least`` is negative or not finite. When training starts: it has no
            validation.

    Example:
        >>> import torch, innerloop as il
        >>> tasks = il.data.sinusoids().episodes()
        >>> net = il.nets.mlp()
        >>> rate_of_zero = lambda params: torch.optim.SGD(params, lr=0.0)
        >>> trainer = il.MetaTrainer(net, il.maml(0.01), rate_of_zero, loss_fn=torch.nn.functional.mse_loss)
        >>> validation = il.Validation(tasks, tasks=4, every=5)
        >>> trainer.fit(tasks, 100, validation=validation, callbacks=[EarlyStopping(patience=2)], progress=False)
        >>> trainer.iteration
        15
    """

    def __init__(self, patience: int, least: float = 0.0) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}; it must be a whole number of at least 1")
        if not (math.isfinite(least) and least >= 0):
            raise ValueError(f"least is {least}; it must be a finite number of at least 0")
        self.patience, self.least = patience, least
        self._best: float | None = None
        self._without = 0

    def __repr__(self) -> str:
        return f"EarlyStopping(patience={self.patience}, least={self.least})"

    def on_start(self, training: Training) -> None:
        """Check that there is a validation. A run that it has stopped already stops again at once."""
        if training.validation is None:
            raise ValueError("early stopping needs a validation; pass fit(validation=il.Validation(...)) too")
        self._stop_if_due(training)

    def on_validation(self, training: Training, result: Evaluation) -> None:
        """Count, and stop training if it is time."""
        better = 1.0 if result.metric == "accuracy" else -1.0
        if not math.isnan(result.mean) and (self._best is None or better * (result.mean - self._best) > self.least):
            self._best, self._without = result.mean, 0
        else:
            self._without += 1
        self._stop_if_due(training)

    def _stop_if_due(self, training: Training) -> None:
        if self._without >= self.patience:
            best = "" if self._best is None else f" on {self._best:.4g}"
            training.stop(f"{self._without} validations in a row without an improvement{best}")

    def state(self) -> dict[str, Any]:
        """The best score so far, and the number of validations since."""
        return {"best": self._best, "without": self._without}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        STATE.check(state, "")
        self._best, self._without = state["best"], state["without"]
