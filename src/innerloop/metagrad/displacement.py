"""Reptile's direction: the displacement of the inner loop, or of its last step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad.base import Info, MetaGradient, observed, refuse_learned
from innerloop.params import sum_tasks

__all__ = ["Displacement", "displacement"]

Part = Literal["whole", "last", "tail"]
"""Which steps count: all of them, the last one, or one more step on the query set."""


@dataclass(frozen=True, repr=False)
class Displacement(MetaGradient):
    r"""Minus the displacement of the inner loop. A plain gradient step along it is Reptile's update.

    .. math:: \text{whole: } \sum_i (\theta - \theta_{i,K}), \qquad
              \text{last: } \sum_i (\theta_{i,K-1} - \theta_{i,K}), \qquad
              \text{tail: } \sum_i (\theta_{i,K} - \theta_{i,K+1}), \text{ whose last step is on the query set}

    The step :math:`\theta \leftarrow \theta - \beta \, \mathrm{mean}_i(\theta - \theta_i')` then gives
    :math:`\theta + \beta \, \mathrm{mean}_i(\theta_i' - \theta)` (Nichol et al., 2018, algorithm 2).

    If the rule is gradient descent with rate α, ``last`` is α times the gradient on the last mini-batch, and ``tail``
    is α times the first-order meta-gradient. No second derivatives are needed. Only ``tail`` needs a query set;
    otherwise queries are only observed. Parameters that the inner loop does not adapt get a gradient of zero.

    Args:
        part: which steps count. ``tail`` takes one more step, on the query set.

    Raises:
        ValueError: another part; when used, a method that learns more than the initialisation, or a ``tail`` without
            queries.

    Example:
        >>> import innerloop as il
        >>> il.displacement(), il.displacement("tail").needs_queries
        (Displacement(), True)
    """

    part: Part = "whole"

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise ValueError(f"part is {self.part!r}; choose one of {', '.join(get_args(Part))}")

    @property
    def needs_queries(self) -> bool:
        """Whether the last step is on the query set."""
        return self.part == "tail"

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        refuse_learned(loop.meta, "the displacement")
        has_queries = episode.query_x.shape[1] > 0
        if self.needs_queries and not has_queries:
            raise ValueError("the tail is a step on the query set, and this episode's query set is empty")
        iterates = loop.unroll(Track.NOTHING)
        before = now = next(iterates)
        support_losses: list[Tensor] = []
        for iterate in iterates:
            before, now = now, iterate
            if iterate.support_losses is not None:
                support_losses.append(iterate.support_losses)
        loss = outputs = None
        if self.part == "tail":
            before, now = now, loop.on(episode.query_x, episode.query_y).step(now, Track.NOTHING)
            loss = now.support_losses
        with torch.no_grad():
            since = loop.meta.model if self.part == "whole" else before.adapted
            grads = {
                name: sum_tasks(since[name] - now.adapted[name]) if name in now.adapted else torch.zeros_like(start)
                for name, start in loop.meta.model.items()
            }
            if self.part != "tail" and has_queries:
                loss, outputs = loop.query(now, episode)
        return Meta(grads), observed(loop, episode, now, loss=loss, support_losses=support_losses, outputs=outputs)


displacement = Displacement
"""The public name of :class:`Displacement`."""
