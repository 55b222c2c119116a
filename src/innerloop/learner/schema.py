"""Schemas of saved files, and a check that names the first field that does not fit.

A schema is made of kinds. A kind checks a value and says in words what it expects. Kinds nest like the values: a
:class:`Record` has a kind for each field, a :class:`ListOf` one kind for all items.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from innerloop.learner.files import CheckpointError

__all__ = [
    "ANYTHING",
    "FLAG",
    "PLAIN",
    "TEXT",
    "Kind",
    "ListOf",
    "Maybe",
    "Number",
    "OneOf",
    "Record",
    "Table",
    "TupleOf",
    "UnfitError",
    "Whole",
    "arguments_of",
    "check",
    "of_type",
    "shown",
]


class UnfitError(ValueError):
    """A value is not of the kind that its field must have.

    Args:
        place: the field, such as ``optimizer.param_groups[0].lr``. It is empty for the whole content.
        value: the value of the field.
        expected: the expected value, in words.
    """

    def __init__(self, place: str, value: object, expected: str) -> None:
        super().__init__(f"{place or 'it'} is {shown(value)}, and must be {expected}")


class Kind(Protocol):
    """A kind of values."""

    @property
    def expected(self) -> str:
        """The expected value, in words that follow "must be"."""
        ...

    def check(self, value: Any, place: str) -> None:
        """Raise :class:`UnfitError` if the value at this place is not of this kind."""
        ...


def check(value: Any, kind: Kind, path: Path, remedy: str) -> None:
    """Check the content of a file.

    Args:
        value: the content.
        kind: the kind that it must have.
        path: the file, for the message.
        remedy: what to do if the check fails, for the message.

    Raises:
        CheckpointError: the content is not of this kind. The message names the first field that does not fit.

    Example:
        >>> check({"k": -1}, Record({"k": Whole(0)}), Path("f"), "again")
        Traceback (most recent call last):
        ...
        innerloop.learner.files.CheckpointError: f is damaged: k is -1, and must be a whole number of at least 0; again
    """
    try:
        kind.check(value, "")
    except UnfitError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {remedy}") from None


def shown(value: object) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {list(value.shape)}"
    if isinstance(value, dict):
        keys = ", ".join(map(str, list(value)[:4])) + (", ..." if len(value) > 4 else "")
        return f"an object with the fields {keys}" if value else "an object without fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class _Simple:
    """A kind without parts."""

    expected: str
    types: tuple[type, ...]

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if type(value) not in self.types:
            raise UnfitError(place, value, self.expected)


TEXT = _Simple("a text", (str,))
"""A text."""
FLAG = _Simple("true or false", (bool,))
"""True or false."""
PLAIN = _Simple("a plain value or null", (bool, int, float, str, type(None)))
"""A value without parts, or None."""


@dataclass(frozen=True)
class _Anything:
    expected: str = "anything"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""


ANYTHING = _Anything()
"""Any value at all."""


@dataclass(frozen=True)
class Whole:
    """A whole number, not below ``least`` if given."""

    least: int | None = None

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return "a whole number" + ("" if self.least is None else f" of at least {self.least}")

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if type(value) is not int or (self.least is not None and value < self.least):
            raise UnfitError(place, value, self.expected)


@dataclass(frozen=True)
class Number:
    """A number, or only a finite number if ``finite``."""

    finite: bool = True

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return "a finite number" if self.finite else "a number"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if type(value) not in (int, float) or (self.finite and not math.isfinite(value)):
            raise UnfitError(place, value, self.expected)


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return ("one of " if len(self.values) > 1 else "") + ", ".join(map(repr, self.values))

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if not any(type(value) is type(each) and value == each for each in self.values):
            raise UnfitError(place, value, self.expected)


@dataclass(frozen=True)
class Maybe:
    """A value of one of these kinds, or None unless ``empty`` is false."""

    kinds: tuple[Kind, ...]
    empty: bool = True

    def __init__(self, *kinds: Kind, empty: bool = True) -> None:
        object.__setattr__(self, "kinds", kinds)
        object.__setattr__(self, "empty", empty)

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return " or ".join([kind.expected for kind in self.kinds] + (["null"] if self.empty else []))

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if value is None and self.empty:
            return
        for kind in self.kinds:
            try:
                kind.check(value, place)
            except UnfitError as error:
                # With a single kind, its own error is more exact: it may name a field deep inside.
                if len(self.kinds) == 1 and value is not None:
                    raise error from None
            else:
                return
        raise UnfitError(place, value, self.expected)


@dataclass(frozen=True)
class ListOf:
    """A list of items of one kind. With ``of=tuple`` it is a tuple."""

    item: Kind
    of: type = list

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"a list, each item of it {self.item.expected}"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if not isinstance(value, list | tuple) or type(value) is not self.of:
            raise UnfitError(place, value, self.expected)
        for index, item in enumerate(tuple(value)):
            self.item.check(item, f"{place}[{index}]")


@dataclass(frozen=True)
class TupleOf:
    """A tuple with a kind for each item."""

    items: tuple[Kind, ...]

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"a list of {len(self.items)} items: {', '.join(item.expected for item in self.items)}"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if type(value) is not tuple or len(value) != len(self.items):
            raise UnfitError(place, value, self.expected)
        for index, (kind, item) in enumerate(zip(self.items, value, strict=True)):
            kind.check(item, f"{place}[{index}]")


@dataclass(frozen=True)
class Table:
    """An object with fields of any names, whose values are of one kind."""

    value: Kind
    key: Kind = TEXT

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"an object, each value of it {self.value.expected}"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if type(value) is not dict:
            raise UnfitError(place, value, self.expected)
        for key, item in value.items():
            self.key.check(key, f"a name in {place or 'it'}")
            self.value.check(item, _within(place, key))


@dataclass(frozen=True)
class Record:
    """An object with these fields.

    Args:
        fields: the fields that must be there.
        optional: the fields that may be there.
        others: the kind of any further fields. None allows no further fields.
    """

    fields: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    others: Kind | None = None

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"an object with the fields {', '.join(self.fields)}"

    def check(self, value: Any, place: str) -> None:
        """See :class:`Kind`."""
        if type(value) is not dict:
            raise UnfitError(place, value, self.expected)
        if absent := [name for name in self.fields if name not in value]:
            raise UnfitError(_within(place, absent[0]), _Absent(), self.fields[absent[0]].expected)
        known = {**self.fields, **self.optional}
        for key, item in value.items():
            kind = known.get(key, self.others)
            if kind is None:
                raise UnfitError(_within(place, key), item, f"absent: the fields are {', '.join(known)}")
            kind.check(item, _within(place, key))


def arguments_of(function: Callable[..., Any]) -> Record:
    """The kinds of a function's arguments, as they come out of JSON. Arguments of unknown types may be anything.

    Example:
        >>> def area(width: int, height: int = 1) -> int: ...
        >>> arguments_of(area).expected
        'an object with the fields width'
    """
    kinds: dict[bool, dict[str, Kind]] = {True: {}, False: {}}
    others: Kind | None = None
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            others = ANYTHING
            continue
        try:
            kind = of_type(hints.get(name))
        except TypeError:
            kind = ANYTHING
        kinds[parameter.default is parameter.empty][name] = kind
    return Record(kinds[True], kinds[False], others)


def of_type(hint: Any) -> Kind:
    """The kind of a value of this Python type, as it comes out of JSON. There, tuples are lists.

    Example:
        >>> of_type(int | None).expected, of_type(tuple[float, ...]).expected
        ('a whole number or null', 'a list, each item of it a finite number')
    """
    simple: dict[Any, Kind] = {int: Whole(), float: Number(), str: TEXT, bool: FLAG}
    if hint in simple:
        return simple[hint]
    if get_origin(hint) is Literal:
        return OneOf(get_args(hint))
    if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
        return ListOf(of_type(get_args(hint)[0]))
    if get_origin(hint) in (list, Sequence):
        return ListOf(of_type(get_args(hint)[0]))
    if get_origin(hint) in (Union, UnionType):
        kinds = [of_type(each) for each in get_args(hint) if each is not type(None)]
        return Maybe(*kinds, empty=type(None) in get_args(hint))
    raise TypeError(f"there is no kind for the type {hint}")


class _Absent:
    def __repr__(self) -> str:
        return "absent"


def _within(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)
