"""Exact meta-gradients in little memory.

A forward sweep runs the inner loop without a graph and keeps some iterates. A reverse sweep goes back through the inner
loop one piece at a time. It computes each piece once more with its graph and differentiates it. The graph of the whole
inner loop is never in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.episode import Episode
from innerloop.inner.gradients import checked_gradients
from innerloop.inner.loop import InnerLoop, Iterate, Track
from innerloop.inner.meta import Meta
from innerloop.inner.objectives import accuracies
from innerloop.metagrad._store import Kept
from innerloop.metagrad.base import Cotangents, Info, carried_state, pulled_back, scored_iterates, stack_steps
from innerloop.params import flattened, leaves, map_nested
from innerloop.randomness import RandomState
from innerloop.rules.base import Rule, RuleState

__all__ = ["Pieces", "differentiated_piecewise"]

T = TypeVar("T")


class Compute(Protocol):
    """A way to compute a part: for the first time, or again with the same random numbers."""

    def __call__(self, what: str, k: int, compute: Callable[[], T]) -> T:
        """Compute the part ``what`` of inner step k."""
        ...


@dataclass(frozen=True)
class Pieces:
    """How the inner loop is cut into pieces.

    Args:
        kept: the number of steps between two iterates that the forward sweep keeps.
        graph: the number of steps that the reverse sweep differentiates in one graph; at most ``kept``.
        last: the number of steps at the end that are not computed twice. The forward sweep keeps their graph, which is
            in memory together with the graph of the query loss.
    """

    kept: int
    graph: int
    last: int = 0


def differentiated_piecewise(loop: InnerLoop, episode: Episode, pieces: Pieces) -> tuple[Meta, Info]:
    r"""The exact meta-gradient, by back-propagation through one piece of the inner loop at a time.

    The last piece comes first. Let :math:`\lambda_k` be the gradient of the objective with respect to iterate k and the
    rule's state there. A piece from step a to step b is computed again from iterate a, with the same random numbers. It
    gives

    .. math:: \lambda_a = \Big(\frac{\partial z_b}{\partial z_a}\Big)^\top \lambda_b, \qquad
              z_k = (\theta_k, \mathrm{state}_k)

    and the gradients of the query losses that are scored within the piece.

    Args:
        loop: the bound inner loop.
        episode: the tasks.
        pieces: the sizes of the pieces.
    """
    weights = scored_iterates(loop.adaptation, episode)
    with torch.enable_grad():
        return _Sweeps(loop.starting_from(loop.meta.leaves()), episode, weights).run(pieces)


@dataclass
class _Sweeps:
    """One forward and one reverse sweep. They fill in ``grads`` and ``losses``."""

    loop: InnerLoop
    episode: Episode
    weights: Sequence[float]
    random: dict[tuple[str, int], RandomState] = field(default_factory=dict)
    losses: dict[int, Tensor] = field(default_factory=dict)
    support_losses: list[Tensor] = field(default_factory=list)
    grads: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """The number of inner steps K."""
        return self.loop.adaptation.steps

    def run(self, pieces: Pieces) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        theta = self.loop.meta.named()
        before = self.steps - pieces.last
        kept, iterate = self.forward(range(before), pieces.kept)
        moving: list[bool] = []
        if flattened(iterate.state):
            moving = _moving(self.loop.adaptation.rule, self.begin_again())
        cotangents, accuracy, carried = self.end(range(before, self.steps), iterate, moving)
        del iterate
        for start in reversed(range(0, before, pieces.kept)):
            stop = min(start + pieces.kept, before)
            cotangents = self.reverse(range(start, stop), kept.pop(), cotangents, size=pieces.graph, moving=moving)
        first = self.begin_again()
        self.add(pulled_back(_tensors(first), cotangents, theta))
        unused = self.loop.problem.unused
        grads = Meta.of(checked_gradients(theta, self.grads, unused=unused, what="meta-objective"))
        loss = torch.stack([self.weights[k] * self.losses[k] for k in sorted(self.losses)]).sum(0)
        return grads, Info(loss, stack_steps(self.support_losses, self.episode), accuracy, carried)

    def forward(self, steps: range, every: int) -> tuple[Kept, Iterate]:
        """Run these steps without a graph. Return the iterates kept, one in ``every``, and the iterate at the end."""
        kept = Kept(-(-len(steps) // every))
        iterate = self.first_time("begin", 0, partial(self.loop.begin, Track.NOTHING))
        for k in steps:
            if k % every == 0:
                kept.push(iterate)
            if self.weights[k] and (k == 0 or self.random):
                # The reverse sweep scores this iterate. Here the query loss only draws its random numbers, if any, in
                # order.
                self.first_time("query", k, partial(self.query, iterate))
            iterate = self.first_time("step", k, partial(self.loop.step, iterate, Track.NOTHING))
            self.note(iterate)
        return kept, iterate

    def begin_again(self) -> Iterate:
        """Compute the start once more, with its graph."""
        return self.again("begin", 0, partial(self.loop.begin, Track.EVERYTHING))

    def end(
        self, steps: range, iterate: Iterate, moving: Sequence[bool]
    ) -> tuple[Cotangents, Tensor | None, RuleState | None]:
        """Run the last steps with their graph and score them: the iterate's cotangents, accuracy and carried state."""
        first, outputs, given = self.cut_off(iterate, moving), list[Tensor](), Cotangents()
        iterate = first
        for k in steps:
            iterate = self.onwards(iterate, k, self.first_time, outputs, given)
            self.note(iterate)
        cotangents, accuracy = self.score_last(iterate)
        cotangents += [None] * len(flattened(iterate.state))
        carried = carried_state(self.loop.adaptation, iterate.state)
        if steps:
            cotangents = self.through(first, [*outputs, *_tensors(iterate)], given + cotangents)
        return cotangents, accuracy, carried

    def reverse(
        self, steps: range, iterate: Iterate, cotangents: Cotangents, *, size: int, moving: Sequence[bool]
    ) -> Cotangents:
        """Take the cotangents back through these steps, in pieces of ``size`` steps, to ``iterate`` before them."""
        start, stop = steps.start, steps.stop
        cuts = range(start, stop, size)
        kept = Kept(len(cuts))
        kept.push(iterate)
        for k in range(start, cuts[-1]):
            iterate = self.again("step", k, partial(self.loop.step, iterate, Track.NOTHING))
            if k + 1 in cuts:
                kept.push(iterate)
        for cut in reversed(cuts):
            first, outputs, given = self.cut_off(kept.pop(), moving), list[Tensor](), Cotangents()
            iterate = first
            for k in range(cut, min(cut + size, stop)):
                iterate = self.onwards(iterate, k, self.again, outputs, given)
            outputs += _tensors(iterate)
            del iterate
            cotangents = self.through(first, outputs, given + cotangents)
        return cotangents

    def onwards(self, iterate: Iterate, k: int, compute: Compute, outputs: list[Tensor], given: Cotangents) -> Iterate:
        """The next iterate, with its graph. If the objective scores this iterate, note its cotangents in ``given``."""
        if self.weights[k]:
            scores, _ = compute("query", k, partial(self.score, iterate, k))
            outputs += iterate.adapted.values()
            given += scores
        return compute("step", k, partial(self.loop.step, iterate, Track.EVERYTHING))

    def through(self, first: Iterate, outputs: Sequence[Tensor], given: Cotangents) -> Cotangents:
        """Take cotangents ``given`` of ``outputs`` back to the iterate ``first``, from which they were computed."""
        inputs = {str(i): t for i, t in enumerate(_tensors(first))}
        found = pulled_back(outputs, given, {**inputs, **first.fixed})
        self.add({name: found[name] for name in first.fixed if name in found})
        return [found.get(name) for name in inputs]

    def score(self, iterate: Iterate, k: int) -> tuple[Cotangents, Tensor]:
        """The weighted gradient of the query losses with respect to an iterate, and the outputs for the queries."""
        at = leaves(iterate.adapted)
        fixed = {name: self.loop.meta.model[name] for name in iterate.fixed}
        losses, outputs = self.loop.query(Iterate(at, fixed, iterate.state, iterate.steps), self.episode)
        self.losses[k] = losses.detach()
        found = pulled_back([losses], [torch.full_like(losses, self.weights[k])], {**at, **fixed})
        self.add({name: found[name] for name in fixed if name in found})
        return [found.get(name) for name in at], outputs.detach()

    def score_last(self, last: Iterate) -> tuple[Cotangents, Tensor | None]:
        """The same as :meth:`score` at the last iterate, with the accuracy there."""
        if self.weights[-1]:
            scores, outputs = self.score(last, self.steps)
        else:
            scores = [None] * len(last.adapted)
            outputs = self.query(last)
        return scores, accuracies(outputs, self.episode.query_y)

    def query(self, iterate: Iterate) -> Tensor:
        """The outputs for the queries, without a graph."""
        with torch.no_grad():
            return self.loop.query(iterate, self.episode)[1]

    def cut_off(self, iterate: Iterate, moving: Sequence[bool]) -> Iterate:
        """The same values as the leaves of a new graph."""
        fixed = {name: self.loop.meta.model[name] for name in iterate.fixed}
        return Iterate(leaves(iterate.adapted), fixed, _with_flags(iterate.state, moving), iterate.steps)

    def note(self, iterate: Iterate) -> None:
        """Note the support losses of the step that led to an iterate."""
        if iterate.support_losses is not None:
            self.support_losses.append(iterate.support_losses)

    def add(self, grads: Mapping[str, Tensor]) -> None:
        """Add to the gradients of the meta-parameters."""
        for name, grad in grads.items():
            self.grads[name] = self.grads[name] + grad if name in self.grads else grad

    def first_time(self, what: str, k: int, compute: Callable[[], T]) -> T:
        """Compute a part. If it draws random numbers, remember the generators' state before it."""
        device = self.episode.support_x.device
        before = RandomState.now(device)
        result = compute()
        if not before.same_as(RandomState.now(device)):
            self.random[what, k] = before
        return result

    def again(self, what: str, k: int, compute: Callable[[], T]) -> T:
        """Compute a part again, with the same random numbers."""
        if (what, k) not in self.random:
            return compute()
        with self.random[what, k].again():
            return compute()


def _with_flags(state: RuleState, flags: Sequence[bool]) -> RuleState:
    """The same values as leaves. A flag says of each tensor whether it requires a gradient."""
    remaining = iter(flags)
    return map_nested(lambda t: t.detach().requires_grad_(next(remaining)), state)


def _tensors(iterate: Iterate) -> list[Tensor]:
    """All tensors that the next step starts from: the adapted parameters and the rule's state."""
    return [*iterate.adapted.values(), *flattened(iterate.state)]


def _moving(rule: Rule, start: Iterate) -> list[bool]:
    """Which tensors of the rule's state depend on the meta-parameters at some step. A count of steps does not.

    To find out, the rule takes steps on one task with made-up gradients. Their values do not matter.
    """
    params = leaves({name: t[:1] for name, t in start.adapted.items()})
    state = map_nested(lambda t: t[:1], start.state)
    moving = [t.requires_grad for t in flattened(state)]
    while True:
        _, state = vmap(rule.step)(params, params, _with_flags(state, moving))
        after = [was or t.requires_grad for was, t in zip(moving, flattened(state), strict=True)]
        if after == moving:
            return moving
        moving = after
