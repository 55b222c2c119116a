"""The registry of data sets: what a recipe needs to know of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

__all__ = ["DATASETS", "DataSet", "Kind", "Place", "Split", "registered_data"]

Kind = Literal["classification", "regression"]
"""What the tasks of a data set are of."""

Split = Literal["train", "val", "test"]
"""The classes or functions that tasks are drawn from."""


@dataclass(frozen=True)
class Place:
    """Where data is, and where it is to be used.

    Args:
        root: folder of the data; None for the default places.
        device: where images are kept and tasks are drawn.
        download: whether what is absent may be fetched.
        progress: whether to show progress bars; None shows them on a terminal.
    """

    root: Path | None = None
    device: str = "cpu"
    download: bool = False
    progress: bool | None = None


Open = TypeVar("Open", bound=Callable[..., Any])


@dataclass(frozen=True)
class DataSet:
    """A data set that recipes can name.

    Args:
        name: its name.
        kind: ``classification`` or ``regression``.
        network: the network of its recipes, by its name in ``innerloop.nets.NETS``.
        open: ``(split, place, **options) -> source``. A source of classification tasks has
            ``episodes(ways, shots, queries, tasks)``, and ``batches(size, tasks)`` if an ordinary classifier is to be
            trained on it. A source of regression tasks has ``episodes(shots, queries, tasks)``.
        held_out: ``(**options) -> bool``: whether there is a split ``val`` that shares nothing with the others.
    """

    name: str
    kind: Kind
    network: str
    open: Callable[..., Any]
    held_out: Callable[..., bool]


DATASETS: dict[str, DataSet] = {}
"""Every data set that a recipe can name."""


def registered_data(
    name: str, *, kind: Kind, network: str, held_out: Callable[..., bool] | None = None
) -> Callable[[Open], Open]:
    """Enter the function that opens a data set into :data:`DATASETS`.

    The function takes the split and a :class:`Place`. Its further arguments are keywords with defaults: they are the
    options of the data set, which the command line has with their help from the ``Args`` section of the docstring.

    Args:
        name: the name of the data set.
        kind: what its tasks are of.
        network: the network of its recipes, by its name in ``innerloop.nets.NETS``.
        held_out: ``(**options) -> bool``, see :class:`DataSet`; always so by default.

    Raises:
        ValueError: there is a data set of that name.

    Example:
        >>> {name: data.kind for name, data in DATASETS.items()}
        {'glyphs': 'classification', 'omniglot': 'classification', 'sinusoids': 'regression'}
    """

    def enter(function: Open) -> Open:
        if name in DATASETS:
            raise ValueError(f"there is a data set {name!r} already; choose another name")
        DATASETS[name] = DataSet(name, kind, network, function, held_out or (lambda **options: True))
        return function

    return enter
