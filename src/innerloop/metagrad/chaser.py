"""Bayesian MAML's chaser loss: the distance to the parameters that more inner steps on more data reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.gradients import meta_gradients
from innerloop.inner.loop import InnerLoop, Iterate, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad.base import Info, MetaGradient, observed, scored_iterates
from innerloop.params import Params, detached, map_nested

__all__ = ["Chaser", "chaser"]


@dataclass(frozen=True, repr=False)
class Chaser(MetaGradient):
    r"""The gradient of the squared distance from the end of the inner loop to a leader (Bayesian MAML's chaser loss).

    .. math:: \nabla_\theta \sum_i \lVert \theta_{i,K} - \mathrm{stopgrad}(\theta_{i,K+s}) \rVert^2

    The leader starts where the inner loop ended. It takes s more steps of the same rule, on the support set and the
    query set together, and is a constant. For particles the distances of all particles are summed. The query loss is
    not differentiated. The reported loss is the distance.

    Args:
        leader_steps: s, the steps that the leader takes.

    Raises:
        ValueError: fewer than one step; when used, an objective that scores an iterate before the last.

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

    leader_steps: int = 1

    def __post_init__(self) -> None:
        if self.leader_steps < 1:
            raise ValueError(f"leader_steps is {self.leader_steps}; it must be 1 or more")

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        scored_iterates(loop.adaptation, episode, only_last="the chaser loss")
        theta = loop.meta.leaves()
        loop = loop.starting_from(theta)
        with torch.enable_grad():
            iterate, support_losses = loop.run(Track.EVERYTHING)
            target = _leader(loop, iterate, episode, self.leader_steps)
            distances = torch.stack(
                [(t - target[name]).square().flatten(1).sum(1) for name, t in iterate.adapted.items()]
            ).sum(0)
            unused = loop.problem.unused
            grads = meta_gradients(distances.sum(), theta, unused=unused, what="distance to the leader")
        with torch.no_grad():
            _, outputs = loop.query(iterate, episode)
        return grads, observed(loop, episode, iterate, loss=distances, support_losses=support_losses, outputs=outputs)


chaser = Chaser
"""The public name of :class:`Chaser`."""


def _leader(loop: InnerLoop, follower: Iterate, episode: Episode, steps: int) -> Params:
    """The parameters after ``steps`` more steps, on the support set and the query set together."""
    loop = loop.on(
        torch.cat([episode.support_x, episode.query_x], 1), torch.cat([episode.support_y, episode.query_y], 1)
    )
    state = map_nested(Tensor.detach, follower.state)
    iterate = Iterate(detached(follower.adapted), detached(follower.fixed), state, follower.steps)
    for _ in range(steps):
        iterate = loop.step(iterate, Track.NOTHING)
    return iterate.adapted
