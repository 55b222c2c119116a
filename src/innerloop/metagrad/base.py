"""What an estimator of the meta-gradient is, and functions that several estimators share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import InnerLoop, Iterate
from innerloop.inner.meta import Meta
from innerloop.inner.objectives import accuracies
from innerloop.params import Params, map_nested, sum_tasks
from innerloop.parts import Part
from innerloop.rules.base import RuleState

__all__ = [
    "Cotangents",
    "Info",
    "MetaGradient",
    "carried_state",
    "observed",
    "pulled_back",
    "refuse_learned",
    "scored_iterates",
    "stack_steps",
]


Cotangents = list[Tensor | None]
"""The gradient of the objective with respect to each tensor of an iterate. It is None for a tensor that the objective
does not depend on."""


@dataclass(frozen=True)
class Info:
    """What was observed while a meta-gradient was computed. No tensor in it has a graph.

    Attributes:
        loss: the meta-objective of each task, ``[T]``. An estimator without a meta-objective reports the query loss at
            the end of the inner loop, or None if there are no queries.
        support_losses: the support loss before each inner step, ``[T, K]``.
        query_accuracy: the fraction of correct query predictions at the end of the inner loop, ``[T]``. It is None for
            regression, or if there are no queries.
        rule_state: the rule's final state, averaged over tasks. It is None unless the adaptation carries it to the next
            meta-batch.
    """

    loss: Tensor | None
    support_losses: Tensor
    query_accuracy: Tensor | None
    rule_state: RuleState | None = None

    @classmethod
    def joined(cls, infos: Sequence[Info]) -> Info:
        """The observations of consecutive groups of tasks as one; a rule's state is averaged over all tasks."""
        tasks = [info.support_losses.shape[0] for info in infos]
        state = None
        if infos[0].rule_state is not None:
            states = [info.rule_state for info in infos]
            state = map_nested(
                lambda *parts: sum(n * part for n, part in zip(tasks, parts, strict=True)) / sum(tasks), *states
            )
        return cls(
            loss=_concatenated([info.loss for info in infos]),
            support_losses=torch.cat([info.support_losses for info in infos]),
            query_accuracy=_concatenated([info.query_accuracy for info in infos]),
            rule_state=state,
        )


class MetaGradient(Part, ABC):
    """An estimator of the meta-gradient: a way to differentiate the outer objective.

    An estimator is called with the bound inner loop of ``T`` tasks and with their episode. It returns the **sum** over
    the tasks of the gradient with respect to each meta-parameter, and the :class:`Info` of the tasks.

    To write your own, inherit from this class and decorate it with ``@dataclass(frozen=True, repr=False)``. Then it
    prints, compares and can be saved.

    Attributes:
        exact: whether it is the true gradient of the meta-objective, up to rounding.
        learns: whether it can be other than zero.
        needs_queries: whether it fails without query examples.
    """

    exact: ClassVar[bool] = False
    learns: ClassVar[bool] = True

    @property
    def needs_queries(self) -> bool:
        """Whether it fails without query examples."""
        return True

    @abstractmethod
    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""


def pulled_back(
    outputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
    inputs: Mapping[str, Tensor],
    *,
    retain_graph: bool = False,
) -> Params:
    """The vector-Jacobian product of the cotangents, for each input that the outputs depend on."""
    pairs = [(t, c) for t, c in zip(outputs, cotangents, strict=True) if c is not None and t.requires_grad]
    wanted = {name: t for name, t in inputs.items() if t.requires_grad}
    if not pairs or not wanted:
        return {}
    found = torch.autograd.grad(
        [t for t, _ in pairs],
        list(wanted.values()),
        [c for _, c in pairs],
        retain_graph=retain_graph,
        allow_unused=True,
    )
    return {name: grad for name, grad in zip(wanted, found, strict=True) if grad is not None}


def scored_iterates(adaptation: Adaptation, episode: Episode, *, only_last: str = "") -> tuple[float, ...]:
    """The weights ``[K + 1]`` of the query losses at the iterates.

    Args:
        adaptation: its objective gives the weights.
        episode: the tasks.
        only_last: the name of an estimator that can score only the last iterate, for the error message. Empty for an
            estimator that can score all iterates.

    Raises:
        ValueError: there are no queries, the objective gives the wrong number of weights, or it scores an iterate
            before the last and the estimator cannot.
    """
    if episode.query_x.shape[1] == 0:
        raise ValueError("the meta-objective is the loss on the query set, and this episode's query set is empty")
    weights = adaptation.objective(adaptation.steps)
    if len(weights) != adaptation.steps + 1:
        raise ValueError(
            f"the objective gives {len(weights)} weights for {adaptation.steps} inner steps; it must give one for "
            f"each iterate, the start included: {adaptation.steps + 1}"
        )
    if only_last and any(weights[:-1]):
        raise ValueError(f"{only_last} can score only the last iterate; use the objective last_step")
    return weights


def refuse_learned(meta: Meta, what: str) -> None:
    """Raise ``ValueError`` if the method learns more than the initialisation. ``what`` gives no gradient for it."""
    if meta.learned:
        names = ", ".join(name for name in meta.named() if name not in meta.model)
        raise ValueError(f"{what} gives no gradient for {names}; use unrolled or first_order")


def observed(
    loop: InnerLoop,
    episode: Episode,
    end: Iterate,
    *,
    loss: Tensor | None,
    support_losses: list[Tensor],
    outputs: Tensor | None,
) -> Info:
    """The :class:`Info` of an inner loop that ended at ``end``. ``outputs`` are its outputs there for the queries."""
    return Info(
        loss=None if loss is None else loss.detach(),
        support_losses=stack_steps(support_losses, episode),
        query_accuracy=None if outputs is None else accuracies(outputs.detach(), episode.query_y),
        rule_state=carried_state(loop.adaptation, end.state),
    )


def stack_steps(losses: list[Tensor], episode: Episode) -> Tensor:
    """Stack the losses ``[T]`` of each step to ``[T, K]``."""
    return torch.stack(losses, 1) if losses else torch.zeros(episode.tasks, 0, device=episode.support_x.device)


def carried_state(adaptation: Adaptation, state: RuleState) -> RuleState | None:
    """The rule's final state, averaged over tasks, if the adaptation carries it on; otherwise None."""
    return map_nested(lambda t: sum_tasks(t.detach()) / len(t), state) if adaptation.carry_state else None


def _concatenated(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None
