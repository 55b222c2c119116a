"""``Episode``: the support and query sets of one meta-batch of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.display import Shown

__all__ = ["Episode", "EpisodeSampler", "with_queries"]


@dataclass(frozen=True, repr=False)
class Episode(Shown):
    """Support and query sets of ``T`` tasks, each tensor with a leading task axis.

    Args:
        support_x: the inputs to adapt on, ``[T, S, ...]``.
        support_y: their targets, ``[T, S, ...]`` (class indices ``[T, S]`` for classification).
        query_x: the inputs to score the adapted model on, ``[T, Q, ...]``.
        query_y: their targets, ``[T, Q, ...]``.

    Raises:
        ValueError: the numbers of tasks differ, a set has more inputs than targets or fewer, or there is no task or no
            support example.

    Example:
        >>> x, y = torch.zeros(2, 5, 1, 28, 28), torch.arange(5).repeat(2, 1)
        >>> episode = Episode(x, y, x, y)
        >>> episode.tasks, episode[0:1].tasks
        (2, 1)
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    def __post_init__(self) -> None:
        for name in ("support", "query"):
            x, y = getattr(self, f"{name}_x"), getattr(self, f"{name}_y")
            if x.ndim < 2 or y.ndim < 2 or x.shape[:2] != y.shape[:2]:
                raise ValueError(
                    f"{name}_x is {list(x.shape)} and {name}_y is {list(y.shape)}: both need the same two leading "
                    f"axes [tasks, examples]. For one task add an axis with x[None], y[None]."
                )
        if 0 in self.support_x.shape[:2]:
            raise ValueError(f"support_x is {list(self.support_x.shape)}: there must be a task and a support example")
        if self.support_x.shape[0] != self.query_x.shape[0]:
            raise ValueError(
                f"the support set has {self.support_x.shape[0]} tasks and the query set "
                f"{self.query_x.shape[0]}: they must be the same tasks in the same order."
            )

    def facts(self) -> dict[str, str]:
        """The shapes of the four tensors, as it prints."""
        return {name: f"{list(t.shape)}, {str(t.dtype).removeprefix('torch.')}" for name, t in vars(self).items()}

    @property
    def tasks(self) -> int:
        """The number of tasks ``T``."""
        return self.support_x.shape[0]

    def __getitem__(self, tasks: slice) -> Episode:
        """The episode of some of the tasks: ``episode[a:b]``."""
        if not isinstance(tasks, slice):
            raise TypeError(f"an episode is indexed with a range of tasks, such as episode[{tasks}:{tasks} + 1]")
        return self.map(lambda t: t[tasks])

    def chunks(self, size: int) -> Iterator[Episode]:
        """The episode in pieces of at most ``size`` tasks, in order."""
        for first in range(0, self.tasks, size):
            yield self[first : first + size]

    def map(self, fn: Callable[[Tensor], Tensor]) -> Episode:
        """The episode with ``fn`` applied to each of its four tensors."""
        return Episode(fn(self.support_x), fn(self.support_y), fn(self.query_x), fn(self.query_y))

    def to(self, device: torch.device | str) -> Episode:
        """The episode on another device."""
        return self.map(lambda t: t.to(device))


EpisodeSampler = Callable[[torch.Generator], Episode]
"""Draws a meta-batch of tasks. It is a pure function of a :class:`torch.Generator`."""


def with_queries(episodes: EpisodeSampler, tasks: int, generator: torch.Generator) -> Iterator[Episode]:
    """Draw meta-batches until there are ``tasks`` tasks in all. The last one is cut to fit.

    A meta-batch is drawn when it is asked for, from the state that the generator has then.

    Raises:
        ValueError: ``tasks`` is below 1, or the episodes have no queries.

    Example:
        >>> x, y = torch.zeros(4, 5, 3), torch.zeros(4, 5)
        >>> [episode.tasks for episode in with_queries(lambda generator: Episode(x, y, x, y), 6, torch.Generator())]
        [4, 2]
    """
    if tasks < 1:
        raise ValueError(f"tasks is {tasks}; there must be at least 1")
    while tasks > 0:
        episode = episodes(generator)
        if episode.query_x.shape[1] == 0:
            raise ValueError("this needs query sets, and these episodes have none; use queries=1 or more")
        yield episode[:tasks]
        tasks -= episode.tasks
