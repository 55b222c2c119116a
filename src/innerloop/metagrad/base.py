"""What an estimator of the meta-gradient is, and what several of them share."""

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
"""The objective's gradient with respect to each tensor of an iterate; None where it does not depend on it."""


@dataclass(frozen=True)
class Info:
    """What was observed on the way to a meta-gradient; no tensor in it has a graph.

    Attributes:
        loss: the meta-objective of each task ``[T]``; for an estimator without one, the query loss at the end
            of the inner loop, or None if there are no queries.
        support_losses: the support loss before each inner step, ``[T, K]``.
        query_accuracy: the fraction of right query predictions at the end of the inner loop, ``[T]``; None for
            regression or without queries.
        rule_state: the rule's final state, averaged over tasks; None unless it is to be carried on.
    """

    loss: Tensor | None
    support_losses: Tensor
    query_accuracy: Tensor | None
    rule_state: RuleState | None = None


class MetaGradient(Part, ABC):
    """How to differentiate: the one place where the methods of this family differ in their calculus.

    An estimator is called with the bound inner loop of ``T`` tasks and their episode. It returns the **sum** over the
    tasks of the gradient with respect to each meta-parameter, and the :class:`Info` of the tasks.

    Write one of your own as a class that inherits from this one, with ``@dataclass(frozen=True, repr=False)``, so that
    it prints, compares and can be saved.

    Attributes:
        exact: whether it is the true gradient of the meta-objective, to rounding.
        learns: whether it is ever other than zero.
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
    """The vector-Jacobian product for those of the inputs that the outputs depend on."""
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
        adaptation: its objective is asked.
        episode: the tasks.
        only_last: what cannot score other iterates than the last, for an error; empty if it can.

    Raises:
        ValueError: there are no queries, the objective gives another number of weights, or it scores other iterates
            than the last where that cannot be.
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
        raise ValueError(f"{only_last} is of the last iterate; use the objective last_step")
    return weights


def refuse_learned(meta: Meta, what: str) -> None:
    """Raise ``ValueError`` if the method learns more than the initialisation, of which ``what`` says nothing."""
    if meta.learned:
        names = ", ".join(name for name in meta.named() if name not in meta.model)
        raise ValueError(f"{what} says nothing about {names}; use unrolled or first_order")


def observed(
    loop: InnerLoop,
    episode: Episode,
    end: Iterate,
    *,
    loss: Tensor | None,
    support_losses: list[Tensor],
    outputs: Tensor | None,
) -> Info:
    """What was observed on the way to where the inner loop ended; ``outputs`` are those for the queries there."""
    return Info(
        loss=None if loss is None else loss.detach(),
        support_losses=stack_steps(support_losses, episode),
        query_accuracy=None if outputs is None else accuracies(outputs.detach(), episode.query_y),
        rule_state=carried_state(loop.adaptation, end.state),
    )


def stack_steps(losses: list[Tensor], episode: Episode) -> Tensor:
    """Losses ``[T]`` of each step as ``[T, K]``."""
    return torch.stack(losses, 1) if losses else torch.zeros(episode.tasks, 0, device=episode.support_x.device)


def carried_state(adaptation: Adaptation, state: RuleState) -> RuleState | None:
    """What is carried on of the rule's final state: its mean over tasks, if anything is."""
    return map_nested(lambda t: sum_tasks(t.detach()) / len(t), state) if adaptation.carry_state else None
