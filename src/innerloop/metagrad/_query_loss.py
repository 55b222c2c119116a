"""Reverse-mode differentiation of the query loss.

The result is exact or first order, depending on what the inner loop tracks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.gradients import meta_gradients
from innerloop.inner.loop import InnerLoop, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad.base import Info, observed, scored_iterates

__all__ = ["differentiated_query_loss"]


def differentiated_query_loss(loop: InnerLoop, episode: Episode, track: Track) -> tuple[Meta, Info]:
    """The gradient of the weighted sum of the query losses at the iterates, through everything that is tracked."""
    weights = scored_iterates(loop.adaptation, episode)
    theta = loop.meta.leaves()
    loop = loop.starting_from(theta)
    objective = torch.zeros((), device=episode.query_x.device)
    support_losses: list[Tensor] = []
    with torch.enable_grad():
        for weight, iterate in zip(weights, loop.unroll(track), strict=True):
            if iterate.support_losses is not None:
                support_losses.append(iterate.support_losses)
            if weight:
                losses, outputs = loop.query(iterate, episode)
                objective = objective + weight * losses
        grads = meta_gradients(objective.sum(), theta, unused=loop.problem.unused, what="meta-objective")
    if not weights[-1]:
        with torch.no_grad():
            _, outputs = loop.query(iterate, episode)
    return grads, observed(loop, episode, iterate, loss=objective, support_losses=support_losses, outputs=outputs)
