"""The parts of a learner's adaptation as functions of tensors alone: the start, a step, the loss, and predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

import torch
from torch import Tensor

from innerloop.export.errors import ExportError
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import InnerLoop, Iterate, Support, Track
from innerloop.inner.losses import LossFn
from innerloop.inner.meta import Meta
from innerloop.inner.model import StatelessModel
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import OneByOne
from innerloop.params import Params
from innerloop.particles import MIXTURE
from innerloop.rules.base import RuleState

__all__ = ["Pieces", "Tensors", "one_query_at_a_time", "predictions", "with_rate"]


class Tensors(TypedDict):
    """All tensors that a part may use. In a graph, their names take their places.

    Attributes:
        constants: the tensors of the network that are not learned.
        model: the initialisation.
        learned: what the method learned beside it.
        carried: the rule's state carried over from training; None if there is none.
        adapted: the adapted parameters of an iterate, each ``[1, ...]``.
        state: the rule's state at that iterate, each tensor ``[1, ...]``.
        query_x: ``[Q, ...]``.
        support_x: ``[S, ...]``.
        support_y: ``[S, ...]``.
        settings: the settings that are not fixed: ``ways`` and ``inner_lr``.
    """

    constants: Any
    model: Any
    learned: Any
    carried: Any
    adapted: Any
    state: Any
    query_x: Any
    support_x: Any
    support_y: Any
    settings: Any


@dataclass(frozen=True)
class Pieces:
    """What a learner does with a task, in parts.

    Args:
        model: the learner's model.
        meta: what it learned.
        adaptation: how it adapts.
        loss_fn: the loss of one task.
    """

    model: StatelessModel
    meta: Meta
    adaptation: Adaptation
    loss_fn: LossFn

    def start(self, k: int, of: Tensors) -> tuple[Params, RuleState]:
        """The adapted parameters and the rule's state before the first step."""
        iterate = self._loop(of).begin(Track.NOTHING)
        return iterate.adapted, iterate.state

    def step(self, k: int, of: Tensors) -> tuple[Params, RuleState, Tensor]:
        """The adapted parameters and the state after step ``k``, and the inner loss ``[1]`` before it."""
        after = self._loop(of).step(replace(self._iterate(of), steps=k), Track.NOTHING)
        assert after.support_losses is not None
        return after.adapted, after.state, after.support_losses

    def loss(self, k: int, of: Tensors) -> Tensor:
        """The inner loss ``[1]`` of the iterate θ_k on all support examples."""
        problem, iterate = self._loop(of).problem.at(k), self._iterate(of)
        arguments = (iterate.adapted, iterate.fixed, of["support_x"][None], of["support_y"][None])
        with torch.no_grad():
            return problem.support_losses(self.adaptation.inner_loss, *arguments, second_order=False)

    def predict(self, k: int, of: Tensors) -> Params:
        """The predictions of the iterate θ_k for queries. There must be one where :attr:`one_query_at_a_time`."""
        model, iterate = self.model.with_constants(of["constants"]).at(k), self._iterate(of)
        params = {**iterate.fixed, **{name: t[0] for name, t in iterate.adapted.items()}}
        labels = of["support_y"]
        seen = None if labels.is_floating_point() else partial(_seen, labels)
        found = predictions(model, params, of["query_x"], of["support_x"], seen)
        if "ways" in of["settings"]:
            found["logits"] = _of_first(found["logits"], of["settings"]["ways"])
        return found

    @property
    def one_query_at_a_time(self) -> bool:
        """Whether each query is normalised together with the support set, so that it is predicted by itself."""
        return one_query_at_a_time(self.model)

    def _iterate(self, of: Tensors) -> Iterate:
        adapted = of["adapted"]
        return Iterate(adapted, {n: t for n, t in of["model"].items() if n not in adapted}, of["state"])

    def _loop(self, of: Tensors) -> InnerLoop:
        adaptation, plain, settings = self.adaptation, self.loss_fn, of["settings"]
        if "inner_lr" in settings:
            adaptation = with_rate(adaptation, settings["inner_lr"], self.meta)

        def of_ways(outputs: Tensor, targets: Tensor) -> Tensor:
            return plain(_of_first(outputs, settings["ways"]), targets)

        loss_fn = of_ways if "ways" in settings else plain
        problem = Problem(self.model.with_constants(of["constants"]), loss_fn, OneByOne(), unused="ignore")
        meta = Meta(of["model"], of["learned"], of["carried"], self.meta.statistics)
        return InnerLoop(problem, adaptation, meta, Support(of["support_x"][None], of["support_y"][None]))


def one_query_at_a_time(model: StatelessModel) -> bool:
    """Whether each query is normalised together with the support set, so that it is predicted by itself."""
    return model.norm == "inductive" and model.mixes_examples


def predictions(
    model: StatelessModel, params: Params, query_x: Tensor, support_x: Tensor, seen: Callable[[int], Tensor] | None
) -> Params:
    """The predictions for queries, as :class:`innerloop.Predictor` gives them.

    Args:
        model: the model.
        params: all its parameters.
        query_x: the queries; one where :func:`one_query_at_a_time`.
        support_x: the support inputs.
        seen: which of this many classes occur in the support set, ``[ways]``; None for regression.

    Returns:
        ``outputs`` for regression, else ``logits`` and ``probabilities``. A class that does not occur in the support
        set has probability 0.
    """
    given = (params, query_x, support_x)
    with torch.no_grad():
        outputs = model.predict(*given, looped=True)
        if seen is None:
            return {"outputs": outputs}
        each = model.predict(*given, looped=True, layer=MIXTURE) if model.has_layer(MIXTURE) else outputs[:, None]
        unseen = ~seen(each.shape[-1])
        return {"logits": outputs, "probabilities": each.masked_fill(unseen, -torch.inf).softmax(-1).mean(1)}


def _seen(labels: Tensor, ways: int) -> Tensor:
    """Which classes occur among labels."""
    return (labels.unsqueeze(1) == torch.arange(ways, device=labels.device)).any(0)


def with_rate(adaptation: Adaptation, lr: float | Tensor, meta: Meta) -> Adaptation:
    """The same adaptation with another inner learning rate. ``meta`` is what the learner learned.

    Raises:
        ExportError: its rule does not have one rate.
    """
    rule: Any = adaptation.rule
    if meta.learned or not isinstance(getattr(rule, "lr", None), float | int):
        raise ExportError(
            f"the inner learning rate cannot be set, because the rule {rule!r} does not have one rate; leave it out"
        )
    return replace(adaptation, rule=replace(rule, lr=lr))


def _of_first(logits: Tensor, ways: Tensor) -> Tensor:
    """Logits of which only those of the first ``ways`` classes take part."""
    return logits.masked_fill(torch.arange(logits.shape[-1], device=logits.device) >= ways, -torch.inf)
