"""Kinds of values that contain tensors, for the schemas of saved files (:mod:`innerloop.learner.schema`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.learner.schema import FLAG, PLAIN, TEXT, Kind, Number, Record, Table, TupleOf, UnfitError

__all__ = ["TENSORS", "Like", "Rows", "TensorOf"]


@dataclass(frozen=True)
class TensorOf:
    """A tensor, of this type and shape if they are given."""

    dtype: torch.dtype | None = None
    shape: tuple[int, ...] | None = None

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        dtype = "" if self.dtype is None else f" of {str(self.dtype).removeprefix('torch.')}"
        shape = "" if self.shape is None else f" of shape {list(self.shape)}"
        return f"a tensor{dtype}{' and' if dtype and shape else ''}{shape}"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        fits = (
            isinstance(value, Tensor) and self.dtype in (None, value.dtype) and self.shape in (None, tuple(value.shape))
        )
        if not fits:
            raise UnfitError(place, value, self.expected)


@dataclass(frozen=True)
class Rows:
    """A matrix of numbers with this many columns, and at least one row."""

    columns: int

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"a tensor of numbers, with one or more rows of {self.columns}"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        fits = isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 2
        if not fits or not len(value) or value.shape[1] != self.columns:
            raise UnfitError(place, value, self.expected)


TENSORS = Table(TensorOf())
"""Tensors by name."""


@dataclass(frozen=True)
class Like:
    """A value of the same structure as another: the same fields, lengths and types, and tensors of the same shapes.

    Integers and floats count as one type. Where the other value is None, any plain value may stand.
    """

    other: Any

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return self._kind().expected

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        self._kind().check(value, place)

    def _kind(self) -> Kind:
        other = self.other
        if isinstance(other, Tensor):
            return TensorOf(other.dtype, tuple(other.shape))
        if isinstance(other, Mapping):
            return Record({key: Like(item) for key, item in other.items()})
        if isinstance(other, tuple):
            return TupleOf(tuple(map(Like, other)))
        if isinstance(other, Sequence) and not isinstance(other, str):
            return _LikeList(tuple(map(Like, other)))
        if other is None:
            return PLAIN
        if isinstance(other, bool):
            return FLAG
        return Number(finite=False) if isinstance(other, int | float) else TEXT


@dataclass(frozen=True)
class _LikeList(TupleOf):
    """A list with a kind for each item."""

    def check(self, value: Any, place: str) -> None:
        if type(value) is not list:
            raise UnfitError(place, value, self.expected)
        super().check(tuple(value), place)
