"""The registry of data sets that recipes can name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

from innerloop.data.preprocess import Preprocessing

__all__ = ["DATASETS", "SPLITS", "DataSet", "Kind", "Location", "Plan", "Split", "registered_data"]

Kind = Literal["classification", "regression"]
"""The kind of a data set's tasks."""

Split = Literal["train", "val", "test"]
"""The classes or functions that tasks are drawn from."""

SPLITS: tuple[Split, ...] = get_args(Split)
"""The three splits."""


@dataclass(frozen=True)
class Location:
    """The folder of a data set, and the device to load it on.

    Args:
        root: the folder of the data. None means the default places.
        device: the device on which images are kept and tasks are drawn.
        download: whether to download data that is absent.
        progress: whether to show progress bars. None shows them only on a terminal.
    """

    root: Path | None = None
    device: str = "cpu"
    download: bool = False
    progress: bool | None = None


class Plan(Protocol):
    """What was decided about a user's data before training: splits and preprocessing.

    A plan is a frozen dataclass that :func:`innerloop.parts.describe` can write. A run keeps it, so that evaluation
    needs nothing else.
    """

    @property
    def kind(self) -> Kind:
        """The kind of the tasks."""
        ...

    @property
    def place(self) -> Path:
        """The folder or the file of the data."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How inputs are prepared."""
        ...

    @property
    def held_out(self) -> bool:
        """Whether the split ``val`` exists and shares nothing with the other splits."""
        ...

    @property
    def smallest(self) -> int:
        """The most classes that a task can have in every split."""
        ...

    @property
    def exact(self) -> bool:
        """Whether a task must have that many classes, since they mean the same in every task."""
        ...

    def lines(self) -> list[str]:
        """What was decided, in words."""
        ...

    def moved(self, root: Path) -> Plan:
        """The same plan for data at another place."""
        ...

    def open(self, split: Split, place: Location) -> Any:
        """Open a split, see :class:`DataSet`."""
        ...


Open = TypeVar("Open", bound=Callable[..., Any])


@dataclass(frozen=True)
class DataSet:
    """A data set that recipes can name.

    Args:
        name: its name.
        kind: ``classification`` or ``regression``.
        network: the network of its recipes, by its name in ``innerloop.nets.NETS``.
        open: ``(split, place, **options) -> source``. A source of classification tasks has
            ``episodes(ways, shots, queries, tasks)``. It also has ``batches(size, tasks)`` if an ordinary classifier
            can be trained on it. A source of regression tasks has ``episodes(shots, queries, tasks)``. With ``planned``
            it is ``(place, **options) -> Plan`` instead.
        held_out: ``(**options) -> bool``: whether the split ``val`` exists and shares nothing with the other splits.
        planned: whether the data set is a user's own, whose splits and preprocessing are decided when training begins.
    """

    name: str
    kind: Kind
    network: str
    open: Callable[..., Any]
    held_out: Callable[..., bool]
    planned: bool = False


DATASETS: dict[str, DataSet] = {}
"""Every data set that a recipe can name."""


def registered_data(
    name: str, *, kind: Kind, network: str, held_out: Callable[..., bool] | None = None, plan: bool = False
) -> Callable[[Open], Open]:
    """Register the function that opens a data set in :data:`DATASETS`.

    The function takes the split and a :class:`Location`. Its further arguments are keywords with defaults, and are the
    options of the data set. The command line shows them, with their help from the ``Args`` section of the docstring.

    Args:
        name: the name of the data set.
        kind: ``classification`` or ``regression``.
        network: the network of its recipes, by its name in ``innerloop.nets.NETS``.
        held_out: ``(**options) -> bool``, see :class:`DataSet`. By default it is always true.
        plan: whether the function makes a :class:`Plan` instead, see :class:`DataSet`.

    Raises:
        ValueError: there is already a data set of that name.

    Example:
        >>> DATASETS["omniglot"].kind, DATASETS["sinusoids"].kind
        ('classification', 'regression')
    """

    def enter(function: Open) -> Open:
        if name in DATASETS:
            raise ValueError(f"there is a data set {name!r} already; choose another name")
        DATASETS[name] = DataSet(name, kind, network, function, held_out or (lambda **options: True), plan)
        return function

    return enter
