"""The rows of the benchmark: networks, sizes of meta-batches, and random episodes of these sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from innerloop.bench.peers import Spec, What
from innerloop.episode import Episode
from innerloop.nets import conv4

__all__ = ["ROWS", "NetworkName", "Row", "Sizes", "episode_of", "learning_rate", "make_network", "rows_of", "spec_of"]

NetworkName: TypeAlias = Literal["omniglot", "maxpool", "mini-imagenet"]
"""A network of four convolutions: on 28x28 images with strides, as MAML's for Omniglot (``omniglot``), on 28x28 images
with max-pooling (``maxpool``), or on 84x84x3 images with max-pooling (``mini-imagenet``)."""

_IMAGES: dict[NetworkName, tuple[int, int]] = {"omniglot": (1, 28), "maxpool": (1, 28), "mini-imagenet": (3, 84)}
_NETWORKS: dict[NetworkName, Callable[[int], nn.Module]] = {
    "omniglot": conv4,
    "maxpool": lambda ways: conv4(ways, downsample="maxpool", pool="flatten"),
    "mini-imagenet": lambda ways: conv4(ways, channels=3, size=84, filters=32, downsample="maxpool", pool="flatten"),
}


@dataclass(frozen=True)
class Sizes:
    """The sizes of a meta-batch. ``shots`` and ``queries`` count the examples of each class."""

    tasks: int
    ways: int
    shots: int
    queries: int
    steps: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.ways} ways, {self.shots} shots, {self.queries} queries a class, "
            f"{self.steps} inner steps"
        )


@dataclass(frozen=True)
class Row:
    """One row of the benchmark: a network and the sizes of its meta-batch."""

    network: NetworkName
    sizes: Sizes

    def __str__(self) -> str:
        return f"{self.network}: {self.sizes}"


ROWS = (
    Row("omniglot", Sizes(32, 5, 1, 1, 1)),
    Row("omniglot", Sizes(32, 5, 1, 15, 1)),
    Row("omniglot", Sizes(16, 20, 1, 1, 5)),
    Row("omniglot", Sizes(8, 5, 5, 15, 5)),
    Row("maxpool", Sizes(32, 5, 1, 1, 1)),
    Row("maxpool", Sizes(8, 5, 1, 15, 5)),
    Row("mini-imagenet", Sizes(4, 5, 1, 5, 1)),
    Row("mini-imagenet", Sizes(4, 5, 1, 15, 5)),
)
"""The rows that are measured by default."""


def rows_of(what: What, rows: tuple[Row, ...]) -> list[Row]:
    """The rows for a method. For Reptile there are no queries, and rows that are then equal become one."""
    if what != "reptile":
        return list(rows)
    return list(dict.fromkeys(replace(row, sizes=replace(row.sizes, queries=0)) for row in rows))


def learning_rate(steps: int, given: float | None = None) -> float:
    """The given inner learning rate, or a default for this number of steps.

    The defaults are the rates of the MAML paper for one step and for several. More than ten steps get a smaller rate,
    because rounding errors grow along a long path that changes direction often.
    """
    if given is not None:
        return given
    return 0.4 if steps == 1 else 0.1 if steps <= 10 else 0.01


def spec_of(what: What, sizes: Sizes, inner_lr: float | None = None) -> Spec:
    """The computation that every contender does for a row."""
    return Spec(what, learning_rate(sizes.steps, inner_lr), sizes.steps)


def make_network(row: Row, seed: int) -> nn.Module:
    """The network of a row. The same seed gives the same network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _NETWORKS[row.network](row.sizes.ways)


def episode_of(row: Row, seed: int) -> Episode:
    """An episode of random images ``[tasks, ways * examples, channels, size, size]``, in order of class.

    Example:
        >>> episode = episode_of(Row("mini-imagenet", Sizes(2, 3, 1, 4, 1)), seed=0)
        >>> list(episode.query_x.shape), episode.support_y.tolist()
        ([2, 12, 3, 84, 84], [[0, 1, 2], [0, 1, 2]])
    """
    generator = torch.Generator().manual_seed(seed)
    sizes, (channels, side) = row.sizes, _IMAGES[row.network]

    def draw(examples: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(sizes.tasks, sizes.ways * examples, channels, side, side, generator=generator)
        return x, torch.arange(sizes.ways).repeat_interleave(examples).repeat(sizes.tasks, 1)

    return Episode(*draw(sizes.shots), *draw(sizes.queries))
