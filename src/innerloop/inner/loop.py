"""The inner loop: begin at the meta-parameters, take K steps on the support set, score on the query set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.gradients import gradients
from innerloop.inner.meta import Meta
from innerloop.inner.problem import Problem
from innerloop.inner.selection import partition
from innerloop.inner.starts import Tasks
from innerloop.params import Params, aliased, detached, leaf, map_nested
from innerloop.rules.base import RuleState

__all__ = ["InnerLoop", "Iterate", "Support", "Track"]


class Track(Enum):
    """How much of the inner loop can be differentiated with respect to the meta-parameters."""

    EVERYTHING = "the updates and the gradients in them: second order"
    UPDATES = "the updates, with their gradients taken as constants: first order"
    NOTHING = "nothing: every iterate is a constant"


@dataclass(frozen=True)
class Support:
    """The support sets of ``T`` tasks.

    Attributes:
        x: ``[T, S, ...]``.
        y: ``[T, S, ...]``.
        batches: indices ``[T, K, B]`` of the support examples that each inner step uses; None if each uses all.
    """

    x: Tensor
    y: Tensor
    batches: Tensor | None = None

    def at_step(self, k: int) -> tuple[Tensor, Tensor]:
        """The examples of inner step ``k``, ``[T, B, ...]``."""
        if self.batches is None:
            return self.x, self.y
        rows = torch.arange(self.x.shape[0], device=self.x.device)[:, None]
        return self.x[rows, self.batches[:, k]], self.y[rows, self.batches[:, k]]


@dataclass(frozen=True)
class Iterate:
    """One iterate θ_k of the inner loop, for ``T`` tasks.

    Attributes:
        adapted: the adapted parameters, each ``[T, ...]``.
        fixed: the parameters that are not adapted, shared by all tasks.
        state: the rule's state, each tensor ``[T, ...]``.
        steps: k, the number of steps taken so far.
        support_losses: the losses ``[T]`` of the step that led here: at θ_{k-1}, on that step's examples. None at the
            start.
    """

    adapted: Params
    fixed: Params
    state: RuleState
    steps: int = 0
    support_losses: Tensor | None = None


@dataclass(frozen=True)
class InnerLoop:
    r"""The inner loop of ``T`` tasks, bound to its model, its meta-parameters and its support sets.

    .. math:: \theta_{k+1} = \mathrm{rule}(\theta_k, \nabla L_{\mathrm{support}}(\theta_k))

    Args:
        problem: the model and its loss.
        adaptation: the start, the rule and the number of steps K, among other settings.
        meta: the meta-parameters. They may require gradients. They are never changed.
        support: the support sets.

    Raises:
        ValueError: in a step, if the support loss does not depend on one of the adapted parameters.
    """

    problem: Problem
    adaptation: Adaptation
    meta: Meta
    support: Support

    def begin(self, track: Track) -> Iterate:
        """The first iterate θ_0, at the start of each task."""
        keep = track is not Track.NOTHING
        with torch.set_grad_enabled(keep):
            meta = self.meta if keep else self.meta.detached()
            chosen, fixed = partition(meta.model, self.adaptation.adapt)
            x, y = self.support.x, self.support.y
            features = partial(self.problem.inputs_of, params=meta.model, x=x)
            adapted = self.adaptation.start(chosen, Tasks(x, y, features))
            if meta.state is None:
                state = vmap(self.adaptation.rule.init, in_dims=(0, None))(adapted, meta.learned)
            else:
                state = map_nested(lambda t: t.expand(len(x), *t.shape), meta.state)
        return Iterate(adapted, fixed, state)

    def step(self, iterate: Iterate, track: Track) -> Iterate:
        """Take one step: from the iterate θ_k to θ_{k+1}."""
        losses, grads = self._gradients(iterate, iterate.adapted, track)
        if (point := self.adaptation.gradient_at) is not None:
            with torch.set_grad_enabled(track is Track.EVERYTHING):
                there = vmap(point)(iterate.adapted, grads)
            grads = self._gradients(iterate, there, track)[1]
        with torch.set_grad_enabled(track is not Track.NOTHING):
            adapted, state = vmap(self.adaptation.rule.step)(iterate.adapted, grads, iterate.state)
        return Iterate(adapted, iterate.fixed, state, iterate.steps + 1, losses.detach())

    def _gradients(self, iterate: Iterate, at: Params, track: Track) -> tuple[Tensor, Params]:
        """The support losses ``[T]`` of an iterate's next step and their gradients, at adapted parameters ``at``."""
        second_order = track is Track.EVERYTHING
        problem = self.problem.at(iterate.steps)
        x, y = self.support.at_step(iterate.steps)
        with torch.enable_grad():
            # The parameters that are not adapted are constants in the inner loop, unless the second order is tracked.
            fixed = iterate.fixed if second_order else detached(iterate.fixed)
            at = {n: t if second_order and t.requires_grad else leaf(t) for n, t in aliased(at).items()}
            inner_loss = self.adaptation.inner_loss
            losses = problem.support_losses(inner_loss, at, fixed, x, y, second_order=second_order)
            grads = gradients(losses.sum(), at, create_graph=second_order, unused=problem.unused, what="support loss")
        return losses, grads

    def unroll(self, track: Track) -> Iterator[Iterate]:
        """Yield the iterates θ_0, θ_1, ..., θ_K."""
        iterate = self.begin(track)
        yield iterate
        for _ in range(self.adaptation.steps):
            iterate = self.step(iterate, track)
            yield iterate

    def run(self, track: Track) -> tuple[Iterate, list[Tensor]]:
        """Run the whole loop. Return the last iterate θ_K, and the support losses ``[T]`` of each step."""
        support_losses: list[Tensor] = []
        for iterate in self.unroll(track):
            if iterate.support_losses is not None:
                support_losses.append(iterate.support_losses)
        return iterate, support_losses

    def query(self, iterate: Iterate, episode: Episode) -> tuple[Tensor, Tensor]:
        """The query losses ``[T]`` and outputs ``[T, Q, ...]`` at an iterate."""
        return self.problem.at(iterate.steps).query(iterate.adapted, iterate.fixed, episode)

    def starting_from(self, meta: Meta) -> InnerLoop:
        """The same loop from other meta-parameters."""
        return replace(self, meta=meta)

    def on(self, x: Tensor, y: Tensor) -> InnerLoop:
        """The same loop on other examples ``[T, S, ...]``. Each step uses all of them."""
        return replace(self, support=Support(x, y))
