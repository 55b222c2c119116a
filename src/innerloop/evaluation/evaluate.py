"""Evaluation on new tasks, by the papers' protocols."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.display import Shown
from innerloop.engine.engine import Engine
from innerloop.engine.plans import Execution
from innerloop.episode import Episode, EpisodeSampler, with_queries
from innerloop.evaluation.calibration import Calibration
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.losses import LossFn
from innerloop.inner.meta import Meta
from innerloop.inner.model import Norm
from innerloop.inner.objectives import accuracies
from innerloop.inner.problem import Problem
from innerloop.methods.base import Method
from innerloop.params import Params
from innerloop.randomness import Stream, generator_at
from innerloop.rules.base import RuleState

__all__ = ["Evaluation", "Member", "evaluate", "evaluate_together"]


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """The result of evaluating on new tasks.

    Attributes:
        loss: the query loss of each task after 0 to K inner steps, ``[tasks, K + 1]``. It is ``[tasks, 1]`` if only the
            last step was scored.
        accuracy: the fraction of correct query predictions, of the same shape; None for regression.
        norm: the normalisation mode that the numbers hold for.
        calibration: the calibration of all query predictions after the last step; None for regression.
        members: the number of learners whose outputs were averaged. It is 1 unless this is an ensemble.
    """

    loss: Tensor
    accuracy: Tensor | None
    norm: Norm
    calibration: Calibration | None = None
    members: int = 1

    @property
    def scores(self) -> Tensor:
        """The scores, of the same shape as ``loss``: the accuracy, or for regression the loss."""
        return self.loss if self.accuracy is None else self.accuracy

    @property
    def metric(self) -> str:
        """The name of the score: ``accuracy`` or ``loss``."""
        return "loss" if self.accuracy is None else "accuracy"

    @property
    def mean(self) -> float:
        """The mean score over tasks after the last inner step."""
        return float(self.scores[:, -1].mean())

    @property
    def ci95(self) -> float:
        """Half the width of the 95 % confidence interval of the mean over tasks: 1.96 standard errors."""
        return self.ci95_per_step[-1]

    @property
    def per_step(self) -> list[float]:
        """The mean score over tasks after each inner step that was scored."""
        means: list[float] = self.scores.mean(0).tolist()
        return means

    def summary(self) -> str:
        """The score in one line, with its interval, the number of tasks and the normalisation mode."""
        if self.accuracy is None:
            score = f"loss {self.mean:.4f} ± {self.ci95:.4f}"
        else:
            score = f"accuracy {100 * self.mean:.1f} ± {100 * self.ci95:.1f} %"
        return f"{score} on {len(self.loss)} tasks ({self.norm})"

    def facts(self) -> dict[str, str]:
        """What was measured, in a few words each, as it prints."""
        steps = " ".join(f"{100 * mean:.1f}" if self.accuracy is not None else f"{mean:.3f}" for mean in self.per_step)
        found = {"score": self.summary()}
        if self.loss.shape[1] > 1:
            found[f"after 0..{self.loss.shape[1] - 1} steps"] = steps
        if self.calibration is not None:
            found["calibration"] = f"expected error {100 * self.calibration.ece:.1f} %"
        if self.members > 1:
            found["ensemble"] = f"{self.members} learners"
        return found

    @property
    def ci95_per_step(self) -> list[float]:
        """Half the widths of the 95 % confidence intervals after each inner step that was scored."""
        tasks, scored = self.scores.shape
        if tasks < 2:
            return [math.nan] * scored
        halves: list[float] = (1.96 * self.scores.std(0) / math.sqrt(tasks)).tolist()
        return halves

    def better_than(self, other: float | None) -> bool:
        """Whether this mean score is better than ``other``. Any score is better than None."""
        return other is None or (self.mean > other if self.accuracy is not None else self.mean < other)


def evaluate(
    net: nn.Module,
    method: Method,
    episodes: EpisodeSampler,
    *,
    tasks: int = 600,
    loss_fn: LossFn = F.cross_entropy,
    norm: Norm = "inductive",
    statistics: Params | None = None,
    meta_params: Mapping[str, Tensor] | None = None,
    rule_state: RuleState | None = None,
    execution: Execution = "auto",
    seed: int = 0,
    stream: Stream = Stream.TESTING,
    every_step: bool = True,
) -> Evaluation:
    """Adapt to new tasks from their support sets and score the predictions on their query sets.

    Nothing carries over from task to task. The module is not changed, and no graph is kept. If training carried a rule
    state, every task starts from that state, and the state is not updated.

    Args:
        net: the module, which holds the meta-learned initialisation.
        method: its ``test`` adaptation is used.
        episodes: draws meta-batches of tasks, with a query set.
        tasks: the number of tasks. The last meta-batch is cut to fit.
        loss_fn: ``(outputs, targets) -> scalar`` of one task.
        norm: the normalisation mode, see :mod:`innerloop.inner.model`. With the default, as with a learner, a
            prediction does not depend on the other queries. The published numbers of MAML are ``transductive``.
        statistics: the batch-norm statistics of the ``per_step`` mode, see
            :func:`innerloop.evaluation.norm_statistics.statistics_by_step`.
        meta_params: values to use instead of the module's own, by name.
        rule_state: the inner rule's state carried over from training.
        execution: how tasks are run.
        seed: the seed of the tasks. The same seed gives the same tasks.
        stream: the random stream of the seed that the tasks are drawn from.
        every_step: whether to score after each of 0 to K inner steps. Otherwise only the last step is scored, which is
            faster.

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
    trainable = {name: p for name, p in net.named_parameters() if p.requires_grad}
    return evaluate_together(
        [Member(net, method, method.meta(trainable, meta_params, state=rule_state, statistics=statistics))],
        episodes,
        tasks=tasks,
        loss_fn=loss_fn,
        norm=norm,
        execution=execution,
        seed=seed,
        stream=stream,
        every_step=every_step,
    )


@dataclass(frozen=True)
class Member:
    """A member of an ensemble.

    Attributes:
        net: the module.
        method: its ``test`` adaptation is used.
        meta: the meta-parameters, with the rule's state and batch-norm statistics.
    """

    net: nn.Module
    method: Method
    meta: Meta


def evaluate_together(
    members: Sequence[Member],
    episodes: EpisodeSampler,
    *,
    tasks: int = 600,
    loss_fn: LossFn = F.cross_entropy,
    norm: Norm = "inductive",
    execution: Execution = "auto",
    seed: int = 0,
    stream: Stream = Stream.TESTING,
    every_step: bool = True,
) -> Evaluation:
    """Evaluate an ensemble: each member adapts to each task separately, and their outputs (logits) are averaged.

    The tasks and mini-batches are the same as :func:`evaluate` draws for the first member alone.

    Args:
        members: the members of the ensemble.
        episodes: as for :func:`evaluate`.
        tasks: as for :func:`evaluate`.
        loss_fn: as for :func:`evaluate`. It scores the averaged outputs.
        norm: as for :func:`evaluate`.
        execution: as for :func:`evaluate`.
        seed: as for :func:`evaluate`.
        stream: as for :func:`evaluate`.
        every_step: as for :func:`evaluate`.

    Raises:
        ValueError: as for :func:`evaluate`; there are no members, or they are scored after different numbers of steps.

    References:
        Antoniou, Edwards, Storkey: How to train your MAML. ICLR 2019. Its published code tests the five checkpoints
        that were best in validation in this way.
    """
    steps = {member.method.test.steps for member in members}
    if not members or (every_step and len(steps) > 1):
        raise ValueError(
            f"the ensemble has {len(members)} members with {sorted(steps)} inner steps; give at least one member, and "
            "members with equal numbers of steps, or pass every_step=False"
        )
    answering = [_answering(m, loss_fn, norm=norm, execution=execution, every_step=every_step) for m in members]
    generator = generator_at(seed, stream, device=next(iter(members[0].net.parameters())).device)
    losses, right, calibrations = [], [], []
    for episode in with_queries(episodes, tasks, generator):
        state = generator.get_state()
        answers = []
        for answer in answering:
            generator.set_state(state)  # the same mini-batches for all
            answers.append(answer(episode, generator))
        loss, outputs = answers[0]
        if len(answers) > 1:
            outputs = torch.stack([each for _, each in answers]).mean(0)
            loss = _losses(loss_fn, outputs, episode.query_y)
        losses.append(loss)
        accuracy = [accuracies(at, episode.query_y) for at in outputs.unbind(1)]
        if present := [a for a in accuracy if a is not None]:
            right.append(torch.stack(present, 1))
            calibrations.append(Calibration.of(outputs[:, -1], episode.query_y))
    return Evaluation(
        loss=torch.cat(losses).cpu(),
        accuracy=torch.cat(right).cpu() if right else None,
        norm=norm,
        calibration=Calibration.together(calibrations) if calibrations else None,
        members=len(members),
    )


Answers = tuple[Tensor, Tensor]
"""Query losses ``[T, S]`` and outputs ``[T, S, Q, ...]`` after the inner steps that are scored."""


def _answering(
    member: Member, loss_fn: LossFn, *, norm: Norm, execution: Execution, every_step: bool
) -> Callable[[Episode, torch.Generator], Answers]:
    """The function that adapts a member to a meta-batch and returns its answers to the queries."""
    engine = Engine(
        member.net,
        loss_fn,
        norm=norm,
        execution=execution,
        unused="ignore",
        training=False,
        statistics=member.meta.statistics,
    )
    adaptation = member.method.test
    meta = engine.packed(member.meta)

    def chunk_answers(problem: Problem, chunk: Episode, support: Support) -> Answers:
        found = []
        loop = InnerLoop(problem, adaptation, meta, support)
        for iterate in loop.unroll(Track.NOTHING):
            if every_step or iterate.steps == adaptation.steps:
                with torch.no_grad():
                    found.append(loop.query(iterate, chunk))
        return torch.stack([loss for loss, _ in found], 1), torch.stack([outputs for _, outputs in found], 1)

    def answers(episode: Episode, generator: torch.Generator) -> Answers:
        chunks = engine.over_chunks(chunk_answers, adaptation, episode, generator)
        return torch.cat([loss for loss, _ in chunks]), torch.cat([outputs for _, outputs in chunks])

    return answers


def _losses(loss_fn: LossFn, outputs: Tensor, targets: Tensor) -> Tensor:
    """The losses ``[T, S]`` of outputs ``[T, S, Q, ...]``."""
    rows = [[loss_fn(at, y) for at in task] for task, y in zip(outputs, targets, strict=True)]
    return torch.stack([torch.stack(row) for row in rows])
