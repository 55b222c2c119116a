"""What a computation may depend on besides its tensors: the plain values that a function or a module can see."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

__all__ = ["has_hooks", "plain_values"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def plain_values(of: Callable[..., Any]) -> tuple[Any, ...]:
    """The numbers, strings and the like that a callable refers to: attributes, closure, defaults, globals.

    Example:
        >>> weight = 0.5
        >>> def loss(x, y): return weight * x
        >>> plain_values(loss)
        (0.5,)
    """
    return tuple(_values(of))


def _values(of: Any) -> Iterator[Any]:
    if isinstance(of, nn.Module):
        for module in of.modules():
            yield from _attributes(module)
    elif isinstance(of, functools.partial):
        yield from (value for value in (*of.args, *of.keywords.values()) if isinstance(value, _PLAIN))
        yield from _values(of.func)
    elif isinstance(of, MethodType):
        yield from _values(of.__self__)
        yield from _values(of.__func__)
    elif isinstance(of, FunctionType):
        cells = (cell.cell_contents for cell in of.__closure__ or () if _filled(cell))
        names = (of.__globals__.get(name) for name in of.__code__.co_names)
        found = (*cells, *(of.__defaults__ or ()), *(of.__kwdefaults__ or {}).values(), *names)
        yield from (value for value in found if isinstance(value, _PLAIN))
    elif hasattr(of, "__dict__") and not isinstance(of, type):
        yield from _attributes(of)


def _attributes(of: Any) -> Iterator[Any]:
    return (value for value in vars(of).values() if isinstance(value, _PLAIN))


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def has_hooks(module: nn.Module) -> bool:
    """Whether anything is called beside the layers of a module."""
    names = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    return any(getattr(layer, name, None) for layer in module.modules() for name in names if "state_dict" not in name)
