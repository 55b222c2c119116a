"""Reptile's direction: how far the inner loop moved."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.adaptation import Adaptation
from innerloop.episode import Episode
from innerloop.metagrad.base import Info, MetaGradient, carried_state, stack_steps
from innerloop.objectives import accuracies
from innerloop.params import METHOD_PREFIX, Params, sum_tasks
from innerloop.unroll import Problem, Support, Track, unroll

__all__ = ["displacement"]


def displacement() -> MetaGradient:
    r"""Minus the displacement of the inner loop, which plain gradient descent turns into Reptile's update.

    .. math:: \sum_i (\theta - \theta_i')

    so that :math:`\theta \leftarrow \theta - \beta \, \mathrm{mean}_i(\theta - \theta_i')` is
    :math:`\theta + \beta \, \mathrm{mean}_i(\theta_i' - \theta)` (Nichol et al., 2018, algorithm 2). No second
    derivatives and no query set are needed; queries, if any, are only observed. What the inner loop does not
    adapt gets a gradient of zero.
    """

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
        support_losses: list[Tensor] = []
        for iterate in unroll(problem, adaptation, meta_params, support, Track.NOTHING):
            if iterate.support_losses is not None:
                support_losses.append(iterate.support_losses)
        with torch.no_grad():
            grads = {
                name: sum_tasks(start - iterate.adapted[name]) if name in iterate.adapted else torch.zeros_like(start)
                for name, start in meta_params.items()
            }
            loss = accuracy = None
            if episode.query_x.shape[1]:
                loss, outputs = problem.query(iterate.adapted, iterate.fixed, episode)
                accuracy = accuracies(outputs, episode.query_y)
        return grads, Info(
            loss=loss,
            support_losses=stack_steps(support_losses, episode),
            query_accuracy=accuracy,
            rule_state=carried_state(adaptation, iterate.state),
        )

    return estimate
