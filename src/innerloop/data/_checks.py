"""A check of the fields of a dataclass by their types, for values that were read from a file."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["check_fields"]


def check_fields(value: Any) -> None:
    """Raise ``ValueError`` for the first field that has another type than it is declared with.

    Example:
        >>> from innerloop.data.preprocess import Scale
        >>> check_fields(Scale(0.0, 1.0))
    """
    hints = get_type_hints(type(value))
    for field in dataclasses.fields(value):
        if not _is(getattr(value, field.name), hints[field.name]):
            kind = str(hints[field.name]).replace("typing.", "")
            raise ValueError(f"{field.name} is {getattr(value, field.name)!r}: expected {kind}.")


def _is(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin in (Union, types.UnionType):
        return any(_is(value, each) for each in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if inner[1:] == (...,):
            return all(_is(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_is, value, inner))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind if kind in (int, bool, str) else isinstance(value, kind)
