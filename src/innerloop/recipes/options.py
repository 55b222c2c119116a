"""Options of a function: read from its signature, explained by its docstring, and checked."""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["ConfigError", "Option", "flag", "options_of"]


class ConfigError(ValueError):
    """A setting is out of range, or two settings cannot be combined."""


@dataclass(frozen=True)
class Option:
    """One option.

    Args:
        name: its name in Python. On the command line it has dashes.
        type: the type of its value.
        default: its default value.
        help: the text that explains it.
    """

    name: str
    type: Any
    default: Any
    help: str = ""

    def checked(self, value: Any, *, least: float = -math.inf) -> Any:
        """Check a value and convert it to this option's type. A whole number may become a float, and a list a tuple.

        Args:
            value: the value.
            least: the lowest number allowed.

        Raises:
            ConfigError: the value has another type, is not finite, or is below ``least``.
        """
        found = _fitted(value, self.type)
        if found is _UNFIT:
            raise ConfigError(f"{flag(self.name)} is {value!r}; it must be {_described(self.type)}")
        numbers = [n for n in (found if isinstance(found, tuple) else (found,)) if type(n) in (int, float)]
        rate = self.name.endswith("_lr")
        for number in numbers:
            if not math.isfinite(number) or number < least or (rate and number <= 0):
                kind = "whole number" if type(number) is int else "number"
                bound = f"a {kind} of at least {least:g}" if least > -math.inf else f"a finite {kind}"
                expected = "a positive number" if rate else bound
                raise ConfigError(f"{flag(self.name)} is {_shown(value)}; it must be {expected}")
        return found


def flag(name: str) -> str:
    """The name of an option on the command line.

    Example:
        >>> flag("inner_lr")
        '--inner-lr'
    """
    return f"--{name.replace('_', '-')}"


def options_of(make: Callable[..., Any], *, without: Collection[str] = ()) -> dict[str, Option]:
    """The arguments of a function that have a default, and whose values can be written on a command line.

    Args:
        make: the function. Its docstring explains each argument in a section ``Args``.
        without: arguments to leave out.

    Example:
        >>> import innerloop as il
        >>> found = options_of(il.maml)
        >>> list(found), found["inner_lr"].default, found["inner_lr"].help
        (['inner_lr', 'inner_steps', 'test_steps', 'adapt'], 0.4, 'The inner learning rate α.')
    """
    hints, explained = get_type_hints(make), _explained(inspect.getdoc(make) or "")
    return {
        name: Option(name, hints[name], parameter.default, explained.get(name, ""))
        for name, parameter in inspect.signature(make).parameters.items()
        if name not in without and parameter.default is not parameter.empty and _plain(hints[name])
    }


_UNFIT = object()


def _fitted(value: Any, kind: Any) -> Any:
    """The value converted to this type, or ``_UNFIT``."""
    origin = get_origin(kind)
    if origin is Literal:
        return value if value in get_args(kind) else _UNFIT
    if origin in (Union, types.UnionType):
        fits = (_fitted(value, each) for each in get_args(kind))
        return next((fit for fit in fits if fit is not _UNFIT), _UNFIT)
    if origin is tuple:
        item = get_args(kind)[0]
        items = tuple(_fitted(each, item) for each in value) if isinstance(value, list | tuple) else (_UNFIT,)
        return _UNFIT if _UNFIT in items else items
    if kind is float and type(value) is int:
        return float(value)
    if kind is type(None):
        return None if value is None else _UNFIT
    return value if type(value) is kind else _UNFIT


def _plain(kind: Any) -> bool:
    """Whether values of a type can be written on a command line and in a JSON file."""
    if get_origin(kind) in (Union, types.UnionType):
        return all(_plain(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return get_args(kind)[-1] is ... and _plain(get_args(kind)[0])
    return get_origin(kind) is Literal or kind in (bool, int, float, str, type(None))


def _described(kind: Any) -> str:
    """A type in words, for messages."""
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_described(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return f"several of: {_described(get_args(kind)[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "None"}
    return names[kind]


def _shown(value: Any) -> str:
    return f"{value:g}" if type(value) is float else str(value)


def _explained(docstring: str) -> dict[str, str]:
    """The text on each argument in the section ``Args`` of a docstring, without markup."""
    lines = docstring.splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if match := re.match(r"    (\w+): (.*)", line):
            name, text = match.groups()
            found[name] = text
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return {name: _without_markup(text) for name, text in found.items()}


def _without_markup(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    text = text.replace("``", "").replace("`", "")
    return text[:1].upper() + text[1:]
