"""Bayesian MAML's chaser loss: the inner loop is to come to where more steps on more data would have led."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import Iterate, Problem, Support, Track, named_gradients, step
from innerloop.metagrad.base import Info, MetaGradient, last_iterate, observed, scored_iterates
from innerloop.params import Params, detached, leaves, map_nested

__all__ = ["chaser"]


def chaser(leader_steps: int = 1) -> MetaGradient:
    r"""The gradient of the distance to a leader, which goes on from the inner loop's end on all of the task's data.

    .. math:: \nabla_\theta \sum_i \lVert \theta_{i,K} - \mathrm{stopgrad}(\theta_{i,K+s}) \rVert^2

    with the steps from K on taken by the same rule on the support set and the query set together. For particles this is
    the chaser loss of Bayesian MAML, the sum of the distances of each. The query loss is not differentiated, and what
    is reported as the loss is the distance.

    Args:
        leader_steps: s.

    Raises:
        ValueError: fewer than one step; when used, an objective that scores other iterates than the last.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = il.nets.mlp_with_particles(4), torch.randn(8, 5, 1), torch.randn(8, 5, 1)
        >>> method = il.bmaml(0.01, meta_gradient=chaser(leader_steps=2))
        >>> grads, info = il.meta_gradient(net, method, il.Episode(x, y, x, y), torch.nn.functional.mse_loss)
        >>> info.loss.shape
        torch.Size([8])

    References:
        Yoon, Kim, Dia, Kim, Bengio, Ahn: Bayesian Model-Agnostic Meta-Learning. NeurIPS 2018, algorithm 3.
    """
    if leader_steps < 1:
        raise ValueError(f"leader_steps is {leader_steps}; it must be 1 or more")

    def estimate(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        if any(scored_iterates(adaptation, episode)[:-1]):
            raise ValueError("the chaser loss is of the last iterate; use the objective last_step")
        theta = leaves(meta_params)
        with torch.enable_grad():
            iterate, support_losses = last_iterate(problem, adaptation, theta, support, Track.EVERYTHING)
            target = _leader(problem, adaptation, iterate, episode, leader_steps)
            distances = torch.stack(
                [(t - target[name]).square().flatten(1).sum(1) for name, t in iterate.adapted.items()]
            ).sum(0)
            grads = named_gradients(
                distances.sum(), theta, create_graph=False, unused=problem.unused, what="distance to the leader"
            )
        with torch.no_grad():
            _, outputs = problem.query(iterate.adapted, iterate.fixed, episode)
        return grads, observed(
            adaptation, episode, iterate, loss=distances, support_losses=support_losses, outputs=outputs
        )

    return estimate


def _leader(problem: Problem, adaptation: Adaptation, follower: Iterate, episode: Episode, steps: int) -> Params:
    """Where so many more steps lead, on the support set and the query set."""
    x = torch.cat([episode.support_x, episode.query_x], 1)
    y = torch.cat([episode.support_y, episode.query_y], 1)
    state = map_nested(Tensor.detach, follower.state)
    iterate = Iterate(detached(follower.adapted), detached(follower.fixed), state)
    for k in range(adaptation.steps, adaptation.steps + steps):
        iterate = step(problem, adaptation, iterate, Support(x, y), k, track=Track.NOTHING)
    return iterate.adapted
