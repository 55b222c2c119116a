"""Reptile's direction: how far the inner loop moved, or its last step did."""

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
"""Which part of the way: all steps, the last of them, or one more on the query set."""


@dataclass(frozen=True, repr=False)
class Displacement(MetaGradient):
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
