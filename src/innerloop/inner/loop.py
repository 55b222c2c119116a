"""THE inner loop."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.func import vmap

from innerloop.engine.backends import to_set_aside, without
from innerloop.engine.kernels import taskwise
from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.losses import InnerLoss, LossFn
from innerloop.inner.model import StatelessModel
from innerloop.inner.selection import partition
from innerloop.inner.starts import Tasks
from innerloop.params import METHOD_PREFIX, Params, detached, leaf, map_nested, read_again
from innerloop.rules.base import RuleState

__all__ = [
    "Iterate",
    "Problem",
    "Support",
    "Track",
    "begin",
    "named_gradients",
    "step",
    "unroll",
    "without_gaps",
]


class Track(Enum):
    """What of the inner loop stays differentiable with respect to the meta-parameters."""

    EVERYTHING = "the updates and the gradients in them: second order"
    UPDATES = "the updates, with their gradients taken as constants: first order"
    NOTHING = "nothing: every iterate is a constant"


@dataclass(frozen=True)
class Problem:
    """What is to be adapted: a stateless model with its loss, and how it is run over tasks.

    Args:
        model: the stateless model.
        loss_fn: ``(outputs, targets) -> scalar`` of one task.
        batched: whether ``torch.func.vmap`` runs the tasks together, or a loop runs them one by one.
        unused: whether a parameter that the loss does not use is an error, or has a gradient of zero.
    """

    model: StatelessModel
    loss_fn: LossFn
    batched: bool = True
    unused: Literal["error", "ignore"] = "error"

    def at(self, step: int) -> Problem:
        """The problem as it is at the iterate θ_step, see :meth:`innerloop.inner.model.StatelessModel.at`."""
        model = self.model.at(step)
        return self if model is self.model else replace(self, model=model)

    def support_losses(
        self, inner_loss: InnerLoss, adapted: Params, fixed: Params, x: Tensor, y: Tensor, *, twice: bool
    ) -> Tensor:
        """The inner loss of each task, ``[T]``; ``twice`` if second derivatives will be taken of it."""

        def one(adapted: Params, x: Tensor, y: Tensor) -> Tensor:
            return _scalar(inner_loss(self.model, self.loss_fn, {**fixed, **adapted}, x, y))

        with self._running(x.device, twice=twice):
            if self.batched:
                losses: Tensor = vmap(one, randomness="different")(adapted, x, y)
                return losses
            return torch.stack([one(_task(adapted, i), x[i], y[i]) for i in range(x.shape[0])])

    def inputs_of(self, layer: str, params: Params, x: Tensor) -> Tensor:
        """What a layer is given for the batches ``x`` of ``T`` tasks at shared parameters, ``[T, N, ...]``."""
        one = partial(self.model.inputs_of, layer, params)
        with self._running(x.device):
            if self.batched:
                inputs: Tensor = vmap(one, randomness="different")(x)
                return inputs
            return torch.stack([one(batch) for batch in x])

    def query(self, adapted: Params, fixed: Params, episode: Episode) -> tuple[Tensor, Tensor]:
        """The query losses ``[T]`` and outputs ``[T, Q, ...]``."""

        def one(adapted: Params, support_x: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            outputs = self.model.predict({**fixed, **adapted}, x, support_x, looped=not self.batched)
            return _scalar(self.loss_fn(outputs, y)), outputs

        with self._running(episode.query_x.device):
            if self.batched:
                losses, outputs = vmap(one, randomness="different")(
                    read_again(adapted), episode.support_x, episode.query_x, episode.query_y
                )
                return losses, outputs
            pairs = [
                one(_task(adapted, i), episode.support_x[i], episode.query_x[i], episode.query_y[i])
                for i in range(episode.tasks)
            ]
        return torch.stack([loss for loss, _ in pairs]), torch.stack([outputs for _, outputs in pairs])

    @contextlib.contextmanager
    def _running(self, device: torch.device, *, twice: bool = False) -> Iterator[None]:
        """The context of a forward pass: its layers are such that they can be batched and differentiated."""
        set_aside = to_set_aside(device, twice=twice, batched=self.batched, recurrent=self.model.recurrent)
        with without(set_aside), taskwise(device) if self.batched else contextlib.nullcontext():
            yield


@dataclass(frozen=True)
class Support:
    """What the inner loop of ``T`` tasks consumes.

    Attributes:
        x: ``[T, S, ...]``.
        y: ``[T, S, ...]``.
        batches: indices ``[T, K, B]`` of the support examples of each inner step; None for all of them.
        state: the rule's state carried over from earlier meta-batches, shared by the tasks; None for a new one.
    """

    x: Tensor
    y: Tensor
    batches: Tensor | None = None
    state: RuleState | None = None

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
        fixed: the parameters that are not adapted, shared by the tasks.
        state: the rule's state, each tensor ``[T, ...]``.
        support_losses: the losses ``[T]`` at θ_{k-1} on the examples of this step; None for the start.
    """

    adapted: Params
    fixed: Params
    state: RuleState
    support_losses: Tensor | None = None


def unroll(
    problem: Problem,
    adaptation: Adaptation,
    meta_params: Mapping[str, Tensor],
    support: Support,
    track: Track,
) -> Iterator[Iterate]:
    r"""Adapt to ``T`` tasks at once, yielding the iterates θ_0, θ_1, ..., θ_K of every task.

    .. math:: \theta_{k+1} = \mathrm{rule}(\theta_k, \nabla L_{\mathrm{support}}(\theta_k))

    Args:
        problem: the model and its loss.
        adaptation: the start, the rule, the number of steps K.
        meta_params: the model's meta-learned parameters by name, and under ``method.`` what the rule learns. They
            may require gradients; nothing is ever written to them.
        support: the support sets.
        track: what stays differentiable.

    Raises:
        ValueError: the support loss does not depend on one of the adapted parameters.
    """
    iterate = begin(problem, adaptation, meta_params, support, track)
    yield iterate
    for k in range(adaptation.steps):
        iterate = step(problem, adaptation, iterate, support, k, track=track)
        yield iterate


def begin(
    problem: Problem, adaptation: Adaptation, meta_params: Mapping[str, Tensor], support: Support, track: Track
) -> Iterate:
    """The start θ_0 of the inner loop; arguments as for :func:`unroll`."""
    keep = track is not Track.NOTHING
    with torch.set_grad_enabled(keep):
        source = meta_params if keep else detached(meta_params)
        model_params = {n: p for n, p in source.items() if not n.startswith(METHOD_PREFIX)}
        learned = {n.removeprefix(METHOD_PREFIX): p for n, p in source.items() if n.startswith(METHOD_PREFIX)}
        chosen, fixed = partition(model_params, adaptation.adapt)
        tasks = support.x.shape[0]
        features = partial(problem.inputs_of, params=model_params, x=support.x)
        adapted = adaptation.start(chosen, Tasks(support.x, support.y, features))
        if support.state is None:
            state = vmap(adaptation.rule.init, in_dims=(0, None))(adapted, learned)
        else:
            state = map_nested(lambda t: t.expand(tasks, *t.shape), support.state)
    return Iterate(adapted, fixed, state)


def step(
    problem: Problem, adaptation: Adaptation, iterate: Iterate, support: Support, k: int, *, track: Track
) -> Iterate:
    """The iterate θ_{k+1} after θ_k, ``iterate``; other arguments as for :func:`unroll`."""
    second_order = track is Track.EVERYTHING
    x, y = support.at_step(k)
    with torch.enable_grad():
        # Inside the inner loop the parameters that it leaves alone are constants, except to the second order.
        fixed = iterate.fixed if second_order else detached(iterate.fixed)
        adapted = read_again(iterate.adapted) if problem.batched else iterate.adapted
        at = {name: t if second_order and t.requires_grad else leaf(t) for name, t in adapted.items()}
        losses = problem.at(k).support_losses(adaptation.inner_loss, at, fixed, x, y, twice=second_order)
        grads = named_gradients(losses.sum(), at, create_graph=second_order, unused=problem.unused, what="support loss")
    with torch.set_grad_enabled(track is not Track.NOTHING):
        adapted, state = vmap(adaptation.rule.step)(iterate.adapted, grads, iterate.state)
    return Iterate(adapted, iterate.fixed, state, losses.detach())


def named_gradients(
    loss: Tensor, params: Params, *, create_graph: bool, unused: Literal["error", "ignore"], what: str
) -> Params:
    """The gradient of a scalar by name; a parameter that it does not depend on is named in an error."""
    grads: Sequence[Tensor | None] = [None] * len(params)
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, allow_unused=True)
    return without_gaps(params, grads, unused=unused, what=what)


def without_gaps(
    params: Mapping[str, Tensor],
    grads: Sequence[Tensor | None],
    *,
    unused: Literal["error", "ignore"],
    what: str,
) -> Params:
    """Gradients by name; a parameter without one is named in an error, or gets zeros."""
    named = dict(zip(params, grads, strict=True))
    idle = [name for name, grad in named.items() if grad is None]
    if len(idle) == len(named):
        raise ValueError(f"the {what} does not depend on any of the parameters {', '.join(params)}")
    # What a rule learns may be of no use to an episode, as is the rate of a step that is not taken.
    idle = [name for name in idle if not name.startswith(METHOD_PREFIX)]
    if idle and unused == "error":
        raise ValueError(
            f"the {what} does not depend on {', '.join(idle)}: freeze with requires_grad_(False), leave out of "
            f"adapt=, or pass unused='ignore' to give a gradient of zero"
        )
    return {name: torch.zeros_like(params[name]) if grad is None else grad for name, grad in named.items()}


def _scalar(loss: Tensor) -> Tensor:
    if loss.ndim:
        raise ValueError(f"loss_fn returned a tensor of shape {list(loss.shape)}; it must return a scalar")
    return loss


def _task(params: Params, index: int) -> Params:
    """The parameters of one task; of a single one without indexing, whose derivative would be a copy."""
    return {name: tensor.squeeze(0) if len(tensor) == 1 else tensor[index] for name, tensor in params.items()}
