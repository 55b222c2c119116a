"""Exact meta-gradients that go back through the inner loop piece by piece, never holding the graph of all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.adaptation import Adaptation
from innerloop.episode import Episode
from innerloop.metagrad.base import (
    Cotangents,
    Info,
    MetaGradient,
    carried_state,
    pulled_back,
    scored_iterates,
    stack_steps,
)
from innerloop.objectives import accuracies
from innerloop.params import Params, leaves, map_nested
from innerloop.rules.base import InnerRule, RuleState
from innerloop.seeds import RandomState
from innerloop.unroll import Iterate, Problem, Support, Track, begin, step, unroll, without_gaps

__all__ = ["Pieces", "piecewise"]

T = TypeVar("T")


@dataclass(frozen=True)
class Pieces:
    """How the inner loop is cut.

    Args:
        kept: steps between two iterates that are kept on the way forth.
        graph: steps that are differentiated in one graph on the way back; at most ``kept``.
    """

    kept: int
    graph: int


def piecewise(pieces: Callable[[int], Pieces]) -> MetaGradient:
    r"""Back-propagation as an adjoint: from the last iterate to the start, one piece of the inner loop at a time.

    Let :math:`\lambda_k` be the gradient of the objective with respect to iterate k and the rule's state there. A
    piece from step a to step b is computed anew from iterate a, with the random numbers of the first time, and gives

    .. math:: \lambda_a = \Big(\frac{\partial z_b}{\partial z_a}\Big)^\top \lambda_b, \qquad
              z_k = (\theta_k, \mathrm{state}_k)

    and the gradients of the query losses that are scored on the way.

    Args:
        pieces: the sizes of the pieces, from the number of inner steps.
    """

    def estimate(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        weights = scored_iterates(adaptation, episode)
        with torch.enable_grad():
            return _Pass(problem, adaptation, leaves(meta_params), episode, support, weights).run(
                pieces(adaptation.steps)
            )

    return estimate


@dataclass
class _Pass:
    """One pass forth and back; ``grads`` and ``losses`` fill up on the way."""

    problem: Problem
    adaptation: Adaptation
    theta: Params
    episode: Episode
    support: Support
    weights: Sequence[float]
    random: dict[tuple[str, int], RandomState] = field(default_factory=dict)
    losses: dict[int, Tensor] = field(default_factory=dict)
    grads: dict[str, Tensor] = field(default_factory=dict)

    def run(self, pieces: Pieces) -> tuple[Params, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        kept, support_losses, last = self.forth(pieces.kept)
        cotangents, accuracy = self.score_last(last)
        moving: list[bool] = []
        if flat := _flat(last.state):
            moving = _moving(self.adaptation.rule, self.again("begin", 0, self.begin))
            cotangents += [None] * len(flat)
        carried = carried_state(self.adaptation, last.state)
        del last, flat
        borders = range(0, self.adaptation.steps, pieces.kept)
        for start in reversed(borders):
            stop = min(start + pieces.kept, self.adaptation.steps)
            cotangents = self.back(range(start, stop), kept.pop(), cotangents, size=pieces.graph, moving=moving)
        first = self.again("begin", 0, self.begin)
        self.add(pulled_back(_tensors(first), cotangents, self.theta))
        found = [self.grads.get(name) for name in self.theta]
        grads = without_gaps(self.theta, found, unused=self.problem.unused, what="meta-objective")
        loss = torch.stack([self.weights[k] * self.losses[k] for k in sorted(self.losses)]).sum(0)
        return grads, Info(loss, stack_steps(support_losses, self.episode), accuracy, carried)

    def forth(self, every: int) -> tuple[list[Iterate], list[Tensor], Iterate]:
        """Every so many iterates, the support losses, and the last iterate; all without a graph."""
        kept: list[Iterate] = []
        support_losses: list[Tensor] = []
        iterates = unroll(self.problem, self.adaptation, self.theta, self.support, Track.NOTHING)
        iterate = self.first_time("begin", 0, partial(next, iterates))
        for k in range(self.adaptation.steps):
            if k % every == 0:
                kept.append(iterate)
            if self.weights[k] and (k == 0 or self.random):
                # It is scored on the way back. Here it only draws its random numbers, if any, when it is its turn.
                self.first_time("query", k, partial(self.query, iterate))
            iterate = self.first_time("step", k, partial(next, iterates))
            if iterate.support_losses is not None:
                support_losses.append(iterate.support_losses)
        return kept, support_losses, iterate

    def back(
        self, steps: range, iterate: Iterate, cotangents: Cotangents, *, size: int, moving: Sequence[bool]
    ) -> Cotangents:
        """The cotangents of the iterate before these steps from those after them, in pieces of a size."""
        start, stop = steps.start, steps.stop
        cuts = range(start, stop, size)
        iterates = [iterate]
        for k in range(start, cuts[-1]):
            iterate = self.again("step", k, partial(self.step, iterate, k, Track.NOTHING))
            if k + 1 in cuts:
                iterates.append(iterate)
        del iterate
        for cut in reversed(cuts):
            at = self.cut_off(iterates.pop(), moving)
            cotangents = self.through(range(cut, min(cut + size, stop)), at, cotangents)
        return cotangents

    def through(self, steps: range, first: Iterate, cotangents: Cotangents) -> Cotangents:
        """The same through the graph of these steps, whose first iterate consists of leaves."""
        outputs: list[Tensor] = []
        given: Cotangents = []
        iterate = first
        for k in steps:
            if self.weights[k]:
                scores, _ = self.again("query", k, partial(self.score, iterate, k))
                outputs += iterate.adapted.values()
                given += scores
            iterate = self.again("step", k, partial(self.step, iterate, k, Track.EVERYTHING))
        outputs += _tensors(iterate)
        given += cotangents
        inputs = {str(i): t for i, t in enumerate(_tensors(first))}
        found = pulled_back(outputs, given, {**inputs, **first.fixed})
        self.add({name: found[name] for name in first.fixed if name in found})
        return [found.get(name) for name in inputs]

    def score(self, iterate: Iterate, k: int) -> tuple[Cotangents, Tensor]:
        """The weighted gradient of the query losses at an iterate with respect to it, and the outputs."""
        at = leaves(iterate.adapted)
        fixed = {name: self.theta[name] for name in iterate.fixed}
        losses, outputs = self.problem.query(at, fixed, self.episode)
        self.losses[k] = losses.detach()
        found = pulled_back([losses], [torch.full_like(losses, self.weights[k])], {**at, **fixed})
        self.add({name: found[name] for name in fixed if name in found})
        return [found.get(name) for name in at], outputs.detach()

    def score_last(self, last: Iterate) -> tuple[Cotangents, Tensor | None]:
        """The same where the inner loop ends, and the accuracy there."""
        if self.weights[-1]:
            scores, outputs = self.score(last, self.adaptation.steps)
        else:
            scores = [None] * len(last.adapted)
            outputs = self.query(last)
        return scores, accuracies(outputs, self.episode.query_y)

    def query(self, iterate: Iterate) -> Tensor:
        """The outputs for the queries, without a graph."""
        with torch.no_grad():
            return self.problem.query(iterate.adapted, iterate.fixed, self.episode)[1]

    def begin(self) -> Iterate:
        """The start with its graph."""
        return begin(self.problem, self.adaptation, self.theta, self.support, Track.EVERYTHING)

    def step(self, iterate: Iterate, k: int, track: Track) -> Iterate:
        """One inner step."""
        return step(self.problem, self.adaptation, iterate, self.support, k, track=track)

    def cut_off(self, iterate: Iterate, moving: Sequence[bool]) -> Iterate:
        """The same values as leaves, to begin a graph with."""
        fixed = {name: self.theta[name] for name in iterate.fixed}
        return Iterate(leaves(iterate.adapted), fixed, _with_flags(iterate.state, moving))

    def add(self, grads: Mapping[str, Tensor]) -> None:
        """Add to the gradients of the meta-parameters."""
        for name, grad in grads.items():
            self.grads[name] = self.grads[name] + grad if name in self.grads else grad

    def first_time(self, what: str, k: int, compute: Callable[[], T]) -> T:
        """Compute something that is to be computed again; where it draws random numbers, remember which."""
        device = self.episode.support_x.device
        before = RandomState.now(device)
        result = compute()
        if not before.same_as(RandomState.now(device)):
            self.random[what, k] = before
        return result

    def again(self, what: str, k: int, compute: Callable[[], T]) -> T:
        """Compute it once more, with the same random numbers."""
        if (what, k) not in self.random:
            return compute()
        with self.random[what, k].again():
            return compute()


def _flat(state: RuleState) -> list[Tensor]:
    """The tensors of a rule's state."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_nested(note, state)
    return found


def _with_flags(state: RuleState, flags: Sequence[bool]) -> RuleState:
    """The same values, those that are flagged as leaves to be differentiated with respect to."""
    remaining = iter(flags)
    return map_nested(lambda t: t.detach().requires_grad_(next(remaining)), state)


def _tensors(iterate: Iterate) -> list[Tensor]:
    """All that the next step begins with."""
    return [*iterate.adapted.values(), *_flat(iterate.state)]


def _moving(rule: InnerRule, start: Iterate) -> list[bool]:
    """Which tensors of the rule's state depend on the meta-parameters at some step; a count of steps does not.

    Found by steps of one task with made-up gradients, since only what depends on what matters.
    """
    params = leaves({name: t[:1] for name, t in start.adapted.items()})
    state = map_nested(lambda t: t[:1], start.state)
    moving = [t.requires_grad for t in _flat(state)]
    while True:
        _, state = vmap(rule.step)(params, params, _with_flags(state, moving))
        after = [was or t.requires_grad for was, t in zip(moving, _flat(state), strict=True)]
        if after == moving:
            return moving
        moving = after
