"""Samplers from other sources: any iterable of episodes, and samplers whose tasks vary in size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from innerloop.data.errors import DataError
from innerloop.episode import Episode

__all__ = ["IteratedEpisodes", "VaryingEpisodes", "from_episodes", "varying"]


@dataclass(eq=False)
class IteratedEpisodes:
    """A sampler that takes episodes from an iterable. :func:`from_episodes` makes it."""

    episodes: Iterable[Any]
    _rest: Iterator[Any] | None = field(default=None, repr=False)

    def __call__(self, generator: torch.Generator) -> Episode:
        """The next episode, on the generator's device. A sequence is drawn from at random, by the generator.

        Raises:
            DataError: there are no more episodes, or an item is no episode.
        """
        if isinstance(self.episodes, Sequence):
            if not self.episodes:
                raise DataError("the sequence of episodes is empty.")
            place = torch.randint(len(self.episodes), (), generator=generator, device=generator.device)
            return as_episode(self.episodes[int(place)]).to(generator.device)
        for _ in range(2):  # at the end, once more from the start
            if self._rest is None:
                self._rest = iter(self.episodes)
            for item in self._rest:
                return as_episode(item).to(generator.device)
            self._rest = None
            if iter(self.episodes) is self.episodes:
                break
        raise DataError("there are no more episodes: a generator runs once. Pass a list, or a DataLoader.")


def from_episodes(episodes: Iterable[Any]) -> IteratedEpisodes:
    """Make a sampler from any iterable of episodes, such as a list, a ``DataLoader`` or a generator.

    An item is an :class:`innerloop.Episode`, a tuple ``(support_x, support_y, query_x, query_y)``, a tuple of two pairs
    ``((x, y), (x, y))``, or a mapping with the pairs ``train`` or ``support``, and ``test`` or ``query``. All tensors
    begin with the axis of tasks. Items may differ in ways, shots and queries.

    A sequence is drawn from at random, so that the sampler is a pure function of its generator and a resumed run draws
    what it would have drawn. Another iterable is read in its own order, and again from its start when it ends; a run
    that resumes begins there again, and so is not the same to the bit.

    Args:
        episodes: the iterable.

    Example:
        >>> x, y = torch.zeros(2, 5, 3), torch.arange(5).repeat(2, 1)
        >>> draw = from_episodes([((x, y), (x, y))])
        >>> draw(torch.Generator()).tasks
        2
    """
    return IteratedEpisodes(episodes)


def as_episode(item: Any) -> Episode:
    """An item of an iterable as an episode.

    Raises:
        DataError: it has none of the known forms.
    """
    if isinstance(item, Episode):
        return item
    pairs: Any = item
    if isinstance(item, Mapping):
        found = [next((item[name] for name in names if name in item), None) for names in _NAMES]
        pairs = found if all(part is not None for part in found) else None
    if isinstance(pairs, tuple | list) and len(pairs) == 2 and all(isinstance(p, tuple | list) for p in pairs):
        pairs = [tensor for pair in pairs for tensor in pair]
    if not isinstance(pairs, tuple | list) or len(pairs) != 4 or not all(isinstance(t, Tensor) for t in pairs):
        raise DataError(
            f"an item of the episodes is a {type(item).__name__}: expected an Episode, (support_x, support_y, query_x, "
            "query_y), ((x, y), (x, y)), or a mapping with support and query."
        )
    return Episode(*pairs)


_NAMES = (("support", "train"), ("query", "test"))

Numbers = int | tuple[int, int] | list[int]


@dataclass(frozen=True, eq=False)
class VaryingEpisodes:
    """A sampler whose meta-batches differ in ways, shots or queries. :func:`varying` makes it.

    Args:
        source: the data set.
        choices: the numbers that a meta-batch draws from, for each of ``shots``, ``queries`` and perhaps ``ways``.
        tasks: the number of tasks in a meta-batch.
    """

    source: Any
    choices: Mapping[str, tuple[int, ...]]
    tasks: int

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the numbers of this meta-batch, then its tasks."""
        drawn = {
            name: numbers[int(torch.randint(len(numbers), (), generator=generator, device=generator.device))]
            for name, numbers in self.choices.items()
        }
        episode: Episode = self.source.episodes(**drawn, tasks=self.tasks)(generator)
        return episode


def varying(
    source: Any, *, shots: Numbers, queries: Numbers, tasks: int, ways: Numbers | None = None
) -> VaryingEpisodes:
    """Make a sampler whose meta-batches differ: each draws its ways, shots and queries.

    All tasks of one meta-batch have the same numbers. The network needs as many outputs as the most ways.

    Args:
        source: a data set with ``episodes(ways, shots, queries, tasks)``, or without ways for regression.
        shots: the number of support examples of each class; the lowest and the highest number, as a tuple; or a list of
            the numbers to draw from.
        queries: the number of query examples, in the same forms.
        tasks: the number of tasks in a meta-batch.
        ways: the number of classes, in the same forms. None for regression.

    Raises:
        ValueError: a range is empty, or the data has too few classes or examples for the highest numbers.

    Example:
        >>> import innerloop as il
        >>> draw = varying(il.data.glyphs("val"), ways=(2, 5), shots=[1, 5], queries=3, tasks=4)
        >>> shapes = {tuple(draw(torch.Generator().manual_seed(i)).support_y.shape) for i in range(20)}
        >>> sorted(shapes)[:4]
        [(4, 2), (4, 3), (4, 4), (4, 5)]
    """
    given = {"shots": shots, "queries": queries} | ({} if ways is None else {"ways": ways})
    choices = {name: _numbers(name, value) for name, value in given.items()}
    for end in (min, max):  # raises now if the lowest or the highest numbers do not fit
        source.episodes(**{name: end(numbers) for name, numbers in choices.items()}, tasks=tasks)
    return VaryingEpisodes(source, choices, tasks)


def _numbers(name: str, value: Numbers) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    if isinstance(value, list):
        if not value:
            raise ValueError(f"{name} is an empty list: expected the numbers to draw from.")
        return tuple(value)
    low, high = value
    if low > high:
        raise ValueError(f"{name} is from {low} to {high}: expected the lower number first.")
    return tuple(range(low, high + 1))
