"""Parts of a method as values: how they print, how they are saved as JSON, and how they are read back.

A part is a frozen dataclass: an inner rule, a start, an objective, an inner loss, an estimator of the meta-gradient, or
a record of such parts. Two parts of the same class with the same fields are equal.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torch import Tensor

__all__ = ["Part", "describe", "restore"]

_REFUSED = sys.stdlib_module_names | {"torch"}
"""Packages that define no parts. Nothing in them is looked up, whatever a file asks for."""

_FUNCTIONAL = "torch.nn.functional"
"""The one exception. A part may hold its functions, such as losses and activations."""


@dataclass(frozen=True, repr=False)
class Part:
    """The base class of parts: a frozen dataclass that prints only the fields that differ from their defaults.

    Decorate a derived class with ``@dataclass(frozen=True, repr=False)``.

    Example:
        >>> import innerloop as il
        >>> il.rules.clipped(il.rules.sgd(0.1, momentum=0.9), max_norm=1.0)
        Clipped(rule=SGD(lr=0.1, momentum=0.9), max_norm=1.0)
    """

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not _is_default(self, f)}
        return f"{type(self).__qualname__}({', '.join(f'{name}={_shown(value)}' for name, value in given.items())})"


def _is_default(part: Part, field: dataclasses.Field[Any]) -> bool:
    value = getattr(part, field.name)
    return value is field.default or (not isinstance(value, Tensor) and bool(value == field.default))


def _shown(value: object) -> str:
    """The text of a value. A function or a class is shown by its name, which is the same in every run."""
    return value.__qualname__ if isinstance(value, FunctionType | type) else repr(value)


def describe(part: object) -> Any:
    """Describe a part as a JSON value that :func:`restore` reads.

    A part becomes ``{"part": "module.Class", "fields": {...}}`` with all its fields, also those at their defaults. A
    function becomes ``{"function": "module.name"}``, a class ``{"class": "module.Class"}``, and a tuple becomes a list.
    Numbers, strings, booleans and None stay the same.

    Args:
        part: a frozen dataclass whose fields hold such values.

    Raises:
        ValueError: a field holds something else: a tensor, a list, an object that is no frozen dataclass, or a function
            or class that cannot be found by its name, such as a ``lambda``.

    Example:
        >>> import innerloop as il
        >>> describe(il.rules.clipped(il.rules.adagrad(0.1), max_norm=1.0))["fields"]["max_norm"]
        1.0
        >>> describe(il.rules.scheduled(il.rules.sgd(0.1), lambda k: 0.5**k))  # doctest: +NORMALIZE_WHITESPACE
        Traceback (most recent call last):
        ...
        ValueError: Scheduled.factor is <lambda> of innerloop.parts, which cannot be found again by its name; define it
        with def or class at the top level of a module
    """
    return _described(part, type(part).__qualname__)


def _described(value: Any, where: str) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"number": str(float(value))}
    if type(value) is tuple:
        return [_described(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, FunctionType):
        return {"function": _path(value, where)}
    if isinstance(value, type):
        return {"class": _path(value, where)}
    if _is_part(type(value)):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        described = {name: _described(getattr(value, name), f"{where}.{name}") for name in fields}
        return {"part": _path(type(value), where), "fields": described}
    remedy = "a part may hold numbers, strings, tuples, functions of a module, and frozen dataclasses of these"
    if isinstance(value, Tensor):
        remedy = "replace the tensor by its value, such as tensor.item()"
    raise ValueError(f"{where} is of type {type(value).__name__}, which cannot be saved; {remedy}")


def _path(named: Callable[..., Any], where: str) -> str:
    """The full name of a function or class. Raise if it cannot be found again by that name."""
    path = f"{named.__module__}.{named.__qualname__}"
    if _lookup(path) is not named:
        raise ValueError(
            f"{where} is {named.__qualname__} of {named.__module__}, which cannot be found again by its name; "
            "define it with def or class at the top level of a module"
        )
    _check_allowed(path)
    return path


def restore(description: Any) -> Any:
    """Make the part from its description by :func:`describe`.

    Nothing is imported. Only constructors of frozen dataclasses are called, and only those of modules that are imported
    already. So a description from anyone is safe to read, as long as those constructors are safe.

    Args:
        description: what :func:`describe` returned. It may have been written to JSON and read back.

    Raises:
        ValueError: the description names a class or function that is not imported or is no part, does not have the form
            that :func:`describe` writes, or has fields that the part refuses.

    Example:
        >>> import innerloop as il
        >>> restore(describe(il.rules.sgd(0.1))) == il.rules.sgd(0.1)
        True
        >>> restore({"function": "os.system"})
        Traceback (most recent call last):
        ...
        ValueError: 'os.system' is of the package os, which defines no parts
    """
    try:
        return _restored(description)
    except RecursionError:
        raise ValueError("the description is nested too deeply to describe a part") from None


def _restored(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(_restored(item) for item in value)
    if isinstance(value, dict):
        if value.keys() == {"part", "fields"}:
            return _made(value["part"], value["fields"])
        if value.keys() == {"class"}:
            return _part_class(value["class"])
        if value.keys() == {"function"}:
            return _function(value["function"])
        if value.keys() == {"number"} and value["number"] in ("inf", "-inf", "nan"):
            return float(value["number"])
    keys = f" with the keys {', '.join(map(repr, value))}" if isinstance(value, dict) else ""
    raise ValueError(f"the description of a part holds a {type(value).__name__}{keys}, which describe() does not write")


def _made(path: Any, described: Any) -> Any:
    """Make the part of this class with these fields."""
    cls = _part_class(path)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    if not isinstance(described, dict):
        raise ValueError(f"the fields of {path} are a {type(described).__name__}; they must be a mapping by name")
    if unknown := [name for name in described if name not in fields]:
        known = ", ".join(fields) or "none"
        raise ValueError(f"{path} has no field {', '.join(map(repr, unknown))}; its fields are: {known}")
    given = {name: _restored(value) for name, value in described.items()}
    try:
        return cls(**given)
    except RecursionError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be made with the fields {given}: {error}") from error


def _part_class(path: Any) -> Any:
    found = _found(path)
    if not (isinstance(found, type) and _is_part(found)):
        raise ValueError(f"{path!r} is no frozen dataclass, so it is no part")
    return found


def _function(path: Any) -> Any:
    found = _found(path)
    if not isinstance(found, FunctionType):
        raise ValueError(f"{path!r} is no function that was defined with def")
    return found


def _is_part(cls: type) -> bool:
    """Whether a class is itself a frozen dataclass. A class that is only derived from one is not."""
    params = vars(cls).get("__dataclass_params__")
    return params is not None and bool(params.frozen)


def _found(path: Any) -> Any:
    """The function or class of this full name. Raise if there is none."""
    if not isinstance(path, str):
        raise ValueError(f"the name of a class or function is {path!r}; it must be a string such as 'module.Class'")
    _check_allowed(path)
    found = _lookup(path)
    if found is None or f"{found.__module__}.{found.__qualname__}" != path:
        raise ValueError(
            f"{path!r} is not found among the modules that are imported; import the module that defines it first, or "
            "pass the method yourself, as method="
        )
    return found


def _check_allowed(path: str) -> None:
    package = path.partition(".")[0]
    if package in _REFUSED and path.rpartition(".")[0] != _FUNCTIONAL:
        raise ValueError(f"{path!r} is of the package {package}, which defines no parts")


def _lookup(path: str) -> Any:
    """The function or class of this full name in the modules that are imported; None if there is none."""
    names = path.split(".")
    for cut in range(len(names) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(names[:cut]))
        if found is None:
            continue
        # vars() runs no code. getattr() may: a module's __getattr__, a property, a descriptor.
        for name in names[cut:]:
            found = vars(found).get(name) if hasattr(found, "__dict__") else None
        return found if isinstance(found, FunctionType | type) else None
    return None
