"""Rows of a table as the features that a network takes: numbers are scaled, categories become zeros and ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from innerloop.data.errors import DataError
from innerloop.data.preprocess import Scale, as_list, checked_shape
from innerloop.parts import Part

__all__ = ["MISSING", "CategoryColumn", "NumberColumn", "TablePreprocessing", "columns_of", "is_missing", "number_of"]

MISSING = frozenset(("", "NA", "N/A", "NaN", "nan", "NULL", "null", "?"))
"""The texts that count as a missing value. So do None and numbers that are not a number."""

_Floats = NDArray[np.float64]


def number_of(value: Any, column: str) -> float:
    """The number in a column that held numbers in training.

    Raises:
        DataError: the value is no finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"column {column!r} holds {value!r}: expected a number, as in training.")
    return number


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), " NA ", 0, "none")]
        [True, True, True, False, False]
    """
    if value is None:
        return True
    if isinstance(value, str):
        return value.strip() in MISSING
    # A value that differs from itself is not a number, as NaN and NaT. pandas.NA has no truth value.
    return type(value).__name__ in ("NAType", "NaTType") or bool(value != value)  # noqa: PLR0124


@dataclass(frozen=True, repr=False)
class NumberColumn(Part):
    """A column of numbers. It becomes one feature, ``(value - mean) / std``. A missing value becomes 0, the mean.

    Args:
        name: the name of the column.
        mean: the mean over the training tasks.
        std: the standard deviation over the training tasks; 1 if all values were equal.
        missing: whether a second feature says, as 0 or 1, that the value is missing. It is there if a value was missing
            in the training tasks.

    Example:
        >>> NumberColumn("age", mean=30.0, std=10.0, missing=True).features(["40", None])
        array([[1., 0.],
               [0., 1.]])
    """

    name: str
    mean: float
    std: float
    missing: bool = False

    @property
    def width(self) -> int:
        """The number of features."""
        return 1 + self.missing

    def features(self, values: Sequence[Any]) -> _Floats:
        """The features ``[N, width]`` of ``N`` values.

        Raises:
            DataError: a value is not a finite number.
        """
        absent = np.array([is_missing(value) for value in values], dtype=bool)
        numbers = np.array(
            [self.mean if gone else number_of(v, self.name) for v, gone in zip(values, absent, strict=True)]
        )
        scaled = (numbers.astype(np.float64) - self.mean) / self.std
        return np.stack([scaled, absent.astype(np.float64)], 1) if self.missing else scaled.reshape(-1, 1)


@dataclass(frozen=True, repr=False)
class CategoryColumn(Part):
    """A column of categories. Each category becomes a feature that is 0 or 1.

    A category that the training tasks did not have makes all of them 0.

    Args:
        name: the name of the column.
        categories: the categories of the training tasks, as text.
        missing: whether a further feature says that the value is missing.

    Example:
        >>> CategoryColumn("colour", ("blue", "red")).features(["red", "green"])
        array([[0., 1.],
               [0., 0.]])
    """

    name: str
    categories: tuple[str, ...]
    missing: bool = False

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.categories) + self.missing

    def features(self, values: Sequence[Any]) -> _Floats:
        """The features ``[N, width]`` of ``N`` values."""
        place = {category: i for i, category in enumerate(self.categories)}
        found = np.zeros((len(values), self.width))
        for row, value in zip(found, values, strict=True):
            if is_missing(value):
                row[len(place) :] = 1
            elif (at := place.get(text_of(value))) is not None:
                row[at] = 1
        return found


@dataclass(frozen=True, repr=False)
class TablePreprocessing(Part):
    """Rows of a table become float32 ``[N, features]``. The scaling is that of the training tasks.

    Args:
        columns: the feature columns, in the order of the features.
        target: how regression targets are scaled; None for classification.

    Raises:
        ValueError: there are no columns, or two of one name.

    Example:
        >>> prepare = TablePreprocessing((NumberColumn("age", 30.0, 10.0), CategoryColumn("sex", ("f", "m"))))
        >>> prepare({"age": [20, 50], "sex": ["m", "f"], "name": ["Ann", "Bo"]})  # or a data frame, or rows
        tensor([[-1.,  0.,  1.],
                [ 2.,  1.,  0.]])
        >>> prepare([{"age": 20, "sex": "m"}]).tolist(), prepare([[20, "m"]]).tolist()
        ([[-1.0, 0.0, 1.0]], [[-1.0, 0.0, 1.0]])
    """

    columns: tuple[NumberColumn | CategoryColumn, ...]
    target: Scale | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"the columns are {', '.join(names) or 'none'}: expected at least one, of different names."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one prepared row: ``(features,)``."""
        return (sum(column.width for column in self.columns),)

    def __call__(self, inputs: Any) -> Tensor:
        """Prepare rows.

        Args:
            inputs: a data frame or a mapping of columns, whose further columns are ignored. Or a sequence of rows, each
                a mapping by name or the values in the order of :attr:`columns`. Or a floating-point tensor
                ``[N, features]``, which is prepared already and is returned as it is.

        Raises:
            DataError: a column is absent, a number is not one, or the inputs are something else.
        """
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return checked_shape(inputs, self.shape, "Pass a data frame, a mapping of columns, or rows.")
        values = columns_of(inputs, [column.name for column in self.columns])
        features = [column.features(values[column.name]) for column in self.columns]
        return torch.from_numpy(np.concatenate(features, axis=1).astype(np.float32))


def text_of(value: Any) -> str:
    """A category as text. Whole numbers are written without a decimal point, so that 1 and 1.0 are one category."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def columns_of(table: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """The named columns of a data frame, a mapping of columns, a sequence of mappings, or of rows in this order.

    Raises:
        DataError: a column is absent, or the columns differ in length.
    """
    if isinstance(table, Mapping) or (hasattr(table, "columns") and hasattr(table, "__getitem__")):
        known = list(table if isinstance(table, Mapping) else table.columns)
        _check_known(names, known)
        found = {name: as_list(table[name]) for name in names}
    else:
        rows = as_list(table)
        for row in rows:
            if isinstance(row, Mapping):
                _check_known(names, list(row))
            elif isinstance(row, str | bytes) or not hasattr(row, "__len__") or len(row) != len(names):
                raise DataError(f"a row is {_shown(row)}: expected the {len(names)} values {', '.join(names)}.")
        by_name = bool(rows) and isinstance(rows[0], Mapping)
        found = {n: [row[n if by_name else i] for row in rows] for i, n in enumerate(names)}
    if len({len(column) for column in found.values()}) > 1:
        raise DataError(f"the columns have {', '.join(str(len(column)) for column in found.values())} values.")
    return found


def _check_known(names: Sequence[str], known: Sequence[Any]) -> None:
    if absent := [name for name in names if name not in known]:
        raise DataError(
            f"the table has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, known)) or 'none'}."
        )


def _shown(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 60 else f"{text[:57]}..."
