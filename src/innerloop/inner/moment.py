"""A record of all that a module holds. It serves to see later changes of the module, and to exchange its tensors.

A module keeps tensors in more places than ``named_parameters`` shows: one tensor may have several owners, and lists and
plain attributes hold tensors too. :class:`Moment` finds them all, and remembers what else the module holds.
"""

from __future__ import annotations

import enum
import functools
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from innerloop.inner.layers import registered_parameters

__all__ = ["ATOMS", "Moment", "Place", "readable"]

Place = tuple[Any, Any]
"""A dictionary or list, and the key or index in it."""

ATOMS: frozenset[type] = frozenset(
    {
        *(bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size),
    }
)
"""Types of values that cannot change."""

_CODE = (FunctionType, BuiltinFunctionType, ModuleType, type)
"""Types that ``copy.deepcopy`` does not copy. A module and its copy share such objects."""


class Moment:
    """All that can be reached from a module through attributes and containers, as it is now.

    Args:
        root: the module.

    Attributes:
        places: the dictionaries and lists that hold each tensor, by the tensor's ``id``.
        names: the name of each tensor, by its ``id``: where it was found first, as ``layer.attribute``.
        tensors: the tensors by that name.
        fixed: the identities of tensors that cannot be exchanged, because a tuple, a set or an object of an unknown
            kind holds them.
        unreadable: a sentence about something that cannot be looked into; None if everything can.
    """

    def __init__(self, root: nn.Module) -> None:
        self.places: dict[int, list[Place]] = {}
        self.names: dict[int, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.fixed: set[int] = set()
        self.unreadable: str | None = None
        self._empty: list[Any] = []
        self._dicts: list[dict[Any, Any]] = []
        self._lists: list[Any] = []
        self._sets: list[tuple[Any, Any]] = []
        self._objects: list[Any] = []
        self._held: list[dict[str, Any]] = []
        self._kept: list[Any] = []
        self._walk(root)
        self._kinds = list(map(type, self._objects))
        self._sizes, self._keys, self._values = self._now()
        self._flags = [t.requires_grad for t in self.tensors.values()]

    def lasts(self) -> bool:
        """Whether the module is unchanged: the same objects in the same places, and equal numbers and strings.

        The values of tensors are not compared.
        """
        if self.unreadable is not None or any(self._empty):
            return False
        sizes, keys, values = self._now()
        if sizes != self._sizes or keys != self._keys:
            return False
        if not all(map(is_, values, self._values)):
            if not all(map(_same, values, self._values)):
                return False
            self._values = values
        if list(map(type, self._objects)) != self._kinds or any(now != then for now, then in self._sets):
            return False
        if not all(map(is_, map(vars, self._objects), self._held)):
            return False
        return self._flags == [t.requires_grad for t in self.tensors.values()]

    @property
    def identities(self) -> set[int]:
        """Of all that can be reached and may change: objects, containers and tensors."""
        things = (self._kept, self._dicts, self._empty, self.tensors.values())
        return {id(thing) for part in things for thing in part}

    def held_elsewhere(self, root: nn.Module, names: Mapping[str, Tensor]) -> list[str]:
        """The parameters that the module also holds in other places than the one where it registers them."""
        registered = {id(registered_parameters(layer)) for layer in root.modules()}
        return [
            name
            for name, p in names.items()
            if id(p) in self.fixed or any(id(holder) not in registered for holder, _ in self.places.get(id(p), ()))
        ]

    def _now(self) -> tuple[list[int], list[Any], list[Any]]:
        return (
            [*map(len, self._dicts), *map(len, self._lists)],
            list(chain.from_iterable(self._dicts)),
            [*chain.from_iterable(map(dict.values, self._dicts)), *chain.from_iterable(self._lists)],
        )

    def _walk(self, root: nn.Module) -> None:
        seen: set[int] = set()
        waiting: list[tuple[Any, str, Place | None]] = [(root, "", None)]
        while waiting:
            thing, name, place = waiting.pop()
            if isinstance(thing, Tensor):
                self._tensor(thing, name, place)
                continue
            if id(thing) in seen or isinstance(thing, _CODE):
                continue
            seen.add(id(thing))
            self._kept.append(thing)  # so that no id is used again
            parts = [part for part in self._parts(thing, name) if type(part[1]) not in ATOMS]
            waiting += [
                (inner, f"{name}.{key}" if name and key != "" else name or str(key), at)
                for key, inner, at in parts[::-1]
            ]

    def _tensor(self, tensor: Tensor, name: str, place: Place | None) -> None:
        if id(tensor) not in self.names:
            self.names[id(tensor)] = name
            self.tensors[name] = tensor
        if place is None:
            self.fixed.add(id(tensor))
            self.unreadable = self.unreadable or f"{name} is a tensor in a tuple, a set or a bound method"
        else:
            self.places.setdefault(id(tensor), []).append(place)

    def _parts(self, thing: Any, name: str) -> Iterator[tuple[Any, Any, Place | None]]:
        """The contents of a thing: keys, values and their places."""
        kind = type(thing)
        if kind in (dict, OrderedDict):
            if not thing:
                self._empty.append(thing)
                return
            self._dicts.append(thing)
            for key, value in thing.items():
                yield "", key, None
                yield key, value, (thing, key)
        elif kind in (list, deque):
            self._lists.append(thing)
            yield from ((index, value, (thing, index)) for index, value in enumerate(thing))
        elif isinstance(thing, tuple):
            yield from ((index, value, None) for index, value in enumerate(thing))
        elif kind in (set, frozenset):
            self._sets.append((thing, frozenset(thing)))
            yield from (("", value, None) for value in thing)
        elif kind is MethodType:
            yield "", thing.__self__, None
        elif kind is functools.partial:
            yield "", thing.args, None
            yield "", thing.keywords, None
        elif isinstance(thing, enum.Enum):
            yield "", thing.value, None
        elif kind is weakref.ref:
            return
        elif (held := getattr(thing, "__dict__", None)) is not None and readable(kind):
            self._objects.append(thing)
            self._held.append(held)
            yield from self._attributes(thing, held)
        elif self.unreadable is None:
            self.unreadable = f"{name or 'the module'} holds a {kind.__name__}, which cannot be looked into"

    def _attributes(self, thing: Any, held: dict[str, Any]) -> Iterator[tuple[Any, Any, Place | None]]:
        if isinstance(thing, nn.RNNBase):  # leaves out lists that the layer makes anew when its weights change
            held = {key: value for key, value in held.items() if not key.startswith("_flat_weight")}
            yield from ((key, value, (vars(thing), key)) for key, value in held.items())
            return
        self._dicts.append(held)
        for key, value in held.items():
            if key in _MODULE and isinstance(thing, nn.Module):
                if value:  # the names of these dictionaries are not part of the names of their contents
                    yield "", value, (held, key)
                else:
                    self._empty.append(value)
            else:
                yield key, value, (held, key)


def readable(kind: type) -> bool:
    """Whether all that an object of this class holds is in its ``__dict__``.

    Example:
        >>> class Own: pass
        >>> readable(Own), readable(list), readable(functools.lru_cache(len).__class__)
        (True, False, False)
    """
    own = all(base is object or base.__flags__ & _MADE_BY_PYTHON for base in kind.__mro__)
    return (
        own
        and kind.__basicsize__ <= _Own.__basicsize__
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
    )


class _Own:
    """A class whose objects hold no more than their ``__dict__``."""


_MODULE = {key for key, value in vars(nn.Module()).items() if isinstance(value, dict)}
"""The attributes in which a module keeps its parameters, buffers, submodules and hooks."""

_MADE_BY_PYTHON = 1 << 9  # the flag of classes that Python code defines


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same object, or equal numbers or strings of one type."""
    if one is other:
        return True
    return type(one) is type(other) and type(one) in ATOMS and repr(one) == repr(other)
