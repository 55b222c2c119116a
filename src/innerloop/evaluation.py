"""Evaluation on new tasks, by the papers' protocols."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.calibration import Calibration
from innerloop.episode import Episode, EpisodeSampler
from innerloop.execute import Engine, meta_params_of
from innerloop.functional import Norm
from innerloop.method import Method
from innerloop.objectives import LossFn, accuracies
from innerloop.plans import Execution
from innerloop.rules.base import RuleState
from innerloop.seeds import Stream, generator_at
from innerloop.unroll import Problem, Support, Track, unroll

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating on new tasks.

    Attributes:
        loss: the query loss of each task after 0..K inner steps, ``[tasks, K + 1]``; where only the last step was
            scored, ``[tasks, 1]``.
        accuracy: the fraction of right query predictions, of the same shape; None for regression.
        norm: the normalisation mode that the numbers hold for.
        calibration: how well the class probabilities after the last step fit, of all queries; None for regression.
    """

    loss: Tensor
    accuracy: Tensor | None
    norm: Norm
    calibration: Calibration | None = None

    @property
    def scores(self) -> Tensor:
        """What the evaluation is about: the accuracy, or in regression the loss; shaped as ``loss``."""
        return self.loss if self.accuracy is None else self.accuracy

    @property
    def metric(self) -> str:
        """``accuracy`` or ``loss``."""
        return "loss" if self.accuracy is None else "accuracy"

    @property
    def mean(self) -> float:
        """The mean score over tasks after the last inner step."""
        return float(self.scores[:, -1].mean())

    @property
    def ci95(self) -> float:
        """Half the width of its 95 % confidence interval over tasks, 1.96 standard errors."""
        last = self.scores[:, -1]
        return 1.96 * float(last.std()) / math.sqrt(len(last)) if len(last) > 1 else math.nan

    @property
    def per_step(self) -> list[float]:
        """The mean score after each inner step that was scored."""
        means: list[float] = self.scores.mean(0).tolist()
        return means

    def better_than(self, other: float | None) -> bool:
        """Whether the mean beats an earlier one; None is beaten by anything."""
        return other is None or (self.mean > other if self.accuracy is not None else self.mean < other)


def evaluate(
    net: nn.Module,
    method: Method,
    episodes: EpisodeSampler,
    *,
    tasks: int = 600,
    loss_fn: LossFn = F.cross_entropy,
    norm: Norm = "transductive",
    meta_params: Mapping[str, Tensor] | None = None,
    rule_state: RuleState | None = None,
    execution: Execution = "auto",
    seed: int = 0,
    stream: Stream = Stream.TESTING,
    every_step: bool = True,
) -> Evaluation:
    """Adapt to new tasks from their support sets and score the predictions on their query sets.

    Nothing carries over from task to task, the module is not changed, and no graph is kept. A rule state that
    training carried on is where every task starts from; it is not updated.

    Args:
        net: the module, holding the meta-learned initialisation.
        method: its ``test`` adaptation is used.
        episodes: draws meta-batches of tasks, with a query set.
        tasks: how many tasks; the last meta-batch is cut to fit.
        loss_fn: ``(outputs, targets) -> scalar`` of one task.
        norm: the normalisation mode, see :mod:`innerloop.functional`.
        meta_params: values to use instead of the module's own, by name.
        rule_state: the inner rule's state carried over from training.
        execution: how tasks are run.
        seed: the seed of the tasks; the same seed gives the same tasks.
        stream: which of the seed's random streams the tasks are drawn from.
        every_step: whether to score after 0..K inner steps, or after the last alone, which takes less time.

    Raises:
        ValueError: ``tasks`` is below 1, an option or a name in ``meta_params`` is unknown, or the episodes have no
            queries.

    Example:
        >>> import innerloop as il
        >>> tasks = il.data.sinusoids().episodes(shots=5, queries=5, tasks=4)
        >>> result = evaluate(il.nets.mlp(), il.maml(0.01), tasks, tasks=6, loss_fn=F.mse_loss)
        >>> result.metric, list(result.loss.shape)
        ('loss', [6, 2])
    """
    if tasks < 1:
        raise ValueError(f"tasks is {tasks}; an evaluation needs at least 1")
    engine = Engine(net, loss_fn, norm=norm, execution=execution, unused="ignore", training=False)
    meta = engine.packed(meta_params_of(engine.model.initial, method, meta_params))
    generator = generator_at(seed, stream, device=next(iter(engine.model.initial.values())).device)

    def score(problem: Problem, chunk: Episode, support: Support) -> _Scores:
        losses, right, calibration = [], [], None
        for k, iterate in enumerate(unroll(problem, method.test, meta, support, Track.NOTHING)):
            if not every_step and k < method.test.steps:
                continue
            with torch.no_grad():
                loss, outputs = problem.query(iterate.adapted, iterate.fixed, chunk)
            losses.append(loss)
            right.append(accuracies(outputs, chunk.query_y))
        present = [accuracy for accuracy in right if accuracy is not None]
        if present:
            calibration = Calibration.of(outputs, chunk.query_y)
        return _Scores(torch.stack(losses, 1), torch.stack(present, 1) if present else None, calibration)

    parts: list[_Scores] = []
    missing = tasks
    while missing > 0:
        episode = episodes(generator)
        if episode.query_x.shape[1] == 0:
            raise ValueError(
                "predictions are scored on the query set, and these episodes have none; use queries=1 or more"
            )
        episode = episode[:missing]
        missing -= episode.tasks
        parts += engine.over_chunks(score, method.test, episode, rule_state, generator)
    right = [part.accuracy for part in parts if part.accuracy is not None]
    calibrations = [part.calibration for part in parts if part.calibration is not None]
    return Evaluation(
        loss=torch.cat([part.loss for part in parts]).cpu(),
        accuracy=torch.cat(right).cpu() if right else None,
        norm=norm,
        calibration=Calibration.together(calibrations) if calibrations else None,
    )


class _Scores(NamedTuple):
    """Of some of the tasks: ``[T, K + 1]``, the same or None, and None where that is."""

    loss: Tensor
    accuracy: Tensor | None
    calibration: Calibration | None
