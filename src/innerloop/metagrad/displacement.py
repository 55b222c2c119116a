"""Reptile's direction: how far the inner loop moved, or its last step did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import Problem, Support, Track, step, unroll
from innerloop.metagrad.base import Info, MetaGradient, observed
from innerloop.params import METHOD_PREFIX, Params, sum_tasks

__all__ = ["displacement"]

Part = Literal["whole", "last", "tail"]
"""Which part of the way: all steps, the last of them, or one more on the query set."""


def displacement(part: Part = "whole") -> MetaGradient:
    r"""Minus the displacement of the inner loop, which plain gradient descent turns into Reptile's update.

    .. math:: \text{whole: } \sum_i (\theta - \theta_{i,K}), \qquad
              \text{last: } \sum_i (\theta_{i,K-1} - \theta_{i,K}), \qquad
              \text{tail: } \sum_i (\theta_{i,K} - \theta_{i,K+1}), \text{ whose last step is on the query set}

    so that :math:`\theta \leftarrow \theta - \beta \, \mathrm{mean}_i(\theta - \theta_i')` is
    :math:`\theta + \beta \, \mathrm{mean}_i(\theta_i' - \theta)` (Nichol et al., 2018, algorithm 2). Where the rule
    is gradient descent, ``last`` is its rate times the gradient on the last mini-batch, and ``tail`` its rate times the
    first-order meta-gradient. No second derivatives are needed, and but for the tail no query set; queries, if any,
    are only observed. What the inner loop does not adapt gets a gradient of zero.

    Args:
        part: which part of the way counts. ``tail`` takes one step more, on the query set.

    Raises:
        ValueError: another part; when it is used, the method learns something beside the initialisation, or there are
            no queries for the tail.
    """
    if part not in get_args(Part):
        raise ValueError(f"part is {part!r}; choose one of {', '.join(get_args(Part))}")

    def estimate(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        learned = [name for name in meta_params if name.startswith(METHOD_PREFIX)]
        if learned:
            raise ValueError(f"the displacement says nothing about {', '.join(learned)}; use unrolled or first_order")
        iterates = unroll(problem, adaptation, meta_params, support, Track.NOTHING)
        before = now = next(iterates)
        support_losses: list[Tensor] = []
        for iterate in iterates:
            before, now = now, iterate
            if iterate.support_losses is not None:
                support_losses.append(iterate.support_losses)
        loss = outputs = None
        if part == "tail":
            if episode.query_x.shape[1] == 0:
                raise ValueError("the tail is a step on the query set, and this episode's query set is empty")
            tail = Support(episode.query_x, episode.query_y)
            before, now = now, step(problem, adaptation, now, tail, adaptation.steps, track=Track.NOTHING)
            loss = now.support_losses
        with torch.no_grad():
            since = meta_params if part == "whole" else before.adapted
            grads = {
                name: sum_tasks(since[name] - now.adapted[name]) if name in now.adapted else torch.zeros_like(start)
                for name, start in meta_params.items()
            }
            if part != "tail" and episode.query_x.shape[1]:
                loss, outputs = problem.query(now.adapted, now.fixed, episode)
        return grads, observed(adaptation, episode, now, loss=loss, support_losses=support_losses, outputs=outputs)

    return estimate
