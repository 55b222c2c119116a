"""Finds what a module, a loss or a method uses that is another thing in each thread, such as a ``threading.local``."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import sys
import threading
import types
import weakref
from collections.abc import Callable, Container, Hashable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from torch import nn

from innerloop.engine.replay.kinds import key_of_value
from innerloop.engine.replay.refused import RefusedError
from innerloop.engine.replay.witness import Witness
from innerloop.inner.moment import ATOMS

__all__ = ["BoundParts", "bound_to_caller", "watched"]

T = TypeVar("T")

MOST = 50_000
"""The most objects that are looked into."""

FEW = 2_000
"""The same for a method, of which functions that did not run are looked into, too."""

_LIBRARIES = {"torch", "numpy", "innerloop", *sys.stdlib_module_names} - {"__main__"}
_HOLDING = {"types", "collections", "argparse", "functools", "enum", "builtins", "torch"}
"""Those of them whose objects hold objects of the user's."""
_SLOT = types.MemberDescriptorType


def watched(run: Callable[[], T], *called: Any) -> tuple[T, str | None]:
    """The result of ``run``, and what the code that ran uses of this thread alone (see :func:`bound_to_caller`).

    Args:
        run: calls the objects ``called``.
        called: the module and its loss.
    """
    witness = Witness()
    try:
        with witness:
            result = run()
    except RefusedError as error:
        if witness.codes or witness.trusted:
            raise
        return run(), str(error)  # nothing could be watched, because a profiler is at work
    return result, bound_to_caller(*called, ran=witness.codes)


def bound_to_caller(*roots: Any, ran: Container[CodeType] | None = None, most: int = MOST) -> str | None:
    """What can be reached from these objects and is another thing in each thread, in words; None if there is none.

    The search follows attributes, items and closures, and what the user's functions name. It finds more than a call
    really uses. It does not find what is looked up by a name that is made at run time.

    Args:
        roots: what is called.
        ran: the code that ran. Functions with other code are left out. By default none are.
        most: the most objects that are looked into. Having more counts as something found.

    Example:
        >>> import threading
        >>> own = threading.local()
        >>> bound_to_caller(lambda x, own=own: x * own.scale)
        'a threading.local'
        >>> bound_to_caller(lambda x: x * 2) is None
        True
    """
    seen: dict[int, Any] = {}
    waiting = [*roots]
    while waiting:
        thing = waiting.pop()
        if type(thing) in ATOMS or id(thing) in seen:
            continue
        if len(seen) == most:
            return "a module, a loss or a method with too many objects to look into"
        if found := _of_a_thread(thing):
            return found
        seen[id(thing)] = thing
        waiting += _used(thing, ran) if isinstance(thing, FunctionType) else _parts(thing)
    return None


class BoundParts:
    """What a method's parts use of the caller's thread alone. Equal methods are looked into once.

    Attributes:
        latest: what the latest parts use, in words; None if nothing.
    """

    def __init__(self) -> None:
        self.latest: str | None = None
        self._key: Hashable = None
        self._kept: list[Any] = []

    def look(self, *parts: Any) -> None:
        """Look into the parts of a method, if they are others than before."""
        kept: list[Any] = []
        key = key_of_value(parts, kept)
        if key != self._key:
            self.latest = bound_to_caller(*parts, most=FEW)
            self._key, self._kept = key, kept


def _of_a_thread(thing: Any) -> str | None:
    if isinstance(thing, threading.local):
        return "a threading.local"
    if isinstance(thing, types.GeneratorType):
        return "a generator, which two threads cannot run at once"
    return None


def _parts(thing: Any) -> Iterator[Any]:
    """What a thing holds, or uses when it is called."""
    if isinstance(thing, MethodType):
        yield from (thing.__func__, thing.__self__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    elif isinstance(thing, property):
        yield from (thing.fget, thing.fset)
    elif isinstance(thing, staticmethod | classmethod):
        yield thing.__func__
    elif isinstance(thing, weakref.ref):
        yield thing()
    elif isinstance(thing, types.BuiltinFunctionType):
        yield None if isinstance(thing.__self__, ModuleType) else thing.__self__
    elif isinstance(thing, type):
        yield from (value for base in thing.__mro__ if not _of_library(base) for value in list(vars(base).values()))
    elif not isinstance(thing, ModuleType):
        yield from _held(thing)


def _held(thing: Any) -> Iterator[Any]:
    """The items and attributes of an object, and its class."""
    kind = type(thing)
    if isinstance(thing, dict | types.MappingProxyType):
        yield from list(thing)
        yield from list(thing.values())
    elif isinstance(thing, list | tuple | set | frozenset | collections.deque):
        yield from list(thing)
    held = getattr(thing, "__dict__", None)
    if isinstance(held, dict) and (isinstance(thing, nn.Module) or not _closed(kind)):
        yield from list(held.values())
    if not _of_library(kind):
        yield kind
        for slot in (value for base in kind.__mro__ for value in vars(base).values() if type(value) is _SLOT):
            with contextlib.suppress(AttributeError):  # an empty slot
                yield slot.__get__(thing)


def _used(function: FunctionType, ran: Container[CodeType] | None) -> Iterator[Any]:
    """What a function uses: closures, defaults, attributes, and what its code names."""
    library = str(function.__globals__.get("__name__")).split(".")[0] in _LIBRARIES
    if not (library or ran is None or function.__code__ in ran):
        return
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    yield from vars(function).values()
    if not library:
        for code in _nested(function.__code__):
            yield from _named(code, function.__globals__)


def _named(code: CodeType, namespace: dict[str, Any]) -> Iterator[Any]:
    """The globals that a code names. Of a module, these are the attributes that the code names, too."""
    modules = [namespace]
    seen = {id(namespace)}
    while modules:
        names = modules.pop()
        for name in code.co_names:
            value = names.get(name, sys.modules.get(name) if names is namespace else None)
            if not isinstance(value, ModuleType):
                yield value
            elif id(vars(value)) not in seen:
                seen.add(id(vars(value)))
                modules.append(vars(value))


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _of_library(kind: type) -> bool:
    return _top(kind) in _LIBRARIES


def _closed(kind: type) -> bool:
    """Whether the attributes of such objects are not looked into: those of a logger, say, or of an engine."""
    if _top(kind) == "innerloop":
        return not dataclasses.is_dataclass(kind)
    return _of_library(kind) and _top(kind) not in _HOLDING


def _top(kind: type) -> str:
    return str(kind.__module__).split(".")[0]
