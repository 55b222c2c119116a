"""``Proof``: the places that a recorded computation read, and the check that they still hold the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from operator import is_, itemgetter
from types import CellType
from typing import Any

import torch
from torch import Tensor

from innerloop.inner.moment import ATOMS

__all__ = ["Proof", "surroundings"]

_NOTHING = object()


class Proof:
    """Places that were read, with their contents.

    Attributes:
        tensors: the tensors that were found there. Their values are read when a recording is used, and are not part of
            the proof.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._names: dict[int, tuple[Mapping[Any, Any], list[Any]]] = {}
        self._getters: list[tuple[Mapping[Any, Any], Any]] = []
        self._absent: list[tuple[Mapping[Any, Any], list[Any]]] = []
        self._known: set[tuple[int, Any]] = set()
        self._cells: list[CellType] = []
        self._containers: list[Any] = []
        self._functions: list[Any] = []
        self._classes: list[type] = []
        self._kinds: dict[type, None] = {}
        self._objects: list[Any] = []
        self._kept: list[Any] = []
        self._state: list[Any] = []
        self._layouts: list[Any] = []

    def name(self, namespace: Mapping[Any, Any] | type, name: Any) -> None:
        """Note that a name was looked up in a dictionary or a class. It need not exist there."""
        self.names(namespace, [name])

    def names(self, namespace: Mapping[Any, Any] | type, names: Iterable[Any]) -> None:
        """Note that several names were looked up."""
        key = id(namespace)
        if new := [name for name in names if (key, name) not in self._known]:
            if key not in self._names:
                self._kept.append(namespace)
                self._names[key] = vars(namespace) if isinstance(namespace, type) else namespace, []
            self._known.update((key, name) for name in new)
            self._names[key][1].extend(new)

    def cell(self, cell: CellType) -> None:
        """Note that a closure cell of a function was read."""
        self._cells.append(cell)

    def container(self, container: Any) -> None:
        """Note that all items of a container were read."""
        self._containers.append(container)

    def whole(self, kind: type) -> None:
        """Note that attributes of a class were looked up. It must not get further or other attributes."""
        self.names(kind, list(vars(kind)))
        self._classes.append(kind)

    def kind(self, kind: type) -> None:
        """Note that attributes of a class were looked up in its base classes. It must not get other bases."""
        self._kinds[kind] = None

    def instance(self, thing: Any) -> None:
        """Note that attributes of an object were looked up, in its class and in its own dictionary."""
        self._objects.append(thing)

    def function(self, function: Any) -> None:
        """Note that a function was called. Its code and its defaults matter."""
        self._functions.append(function)

    def close(self) -> None:
        """Note the present contents of all places."""
        for namespace, names in self._names.values():
            present, absent = [n for n in names if n in namespace], [n for n in names if n not in namespace]
            if present:  # the first name twice, because a getter of a single name gives no tuple
                self._getters.append((namespace, itemgetter(*present, present[0])))
            if absent:
                self._absent.append((namespace, absent))
        self._state, self._layouts = self._now(), list(map(_layout, self.tensors))

    def holds(self) -> bool:
        """Whether the places still hold the same objects, or equal numbers and strings."""
        try:
            now = self._now()
        except KeyError:  # a name is gone
            return False
        if len(now) != len(self._state) or not all(
            namespace.keys().isdisjoint(names) for namespace, names in self._absent
        ):
            return False
        if not all(map(is_, now, self._state)):
            if not all(map(_same, now, self._state)):
                return False
            self._state = now
        return list(map(_layout, self.tensors)) == self._layouts

    def _now(self) -> list[Any]:
        found: list[Any] = []
        for namespace, get in self._getters:
            found += get(namespace)
        found += map(_content, self._cells)
        found += (len(vars(kind)) for kind in self._classes)
        found += (kind.__mro__ for kind in self._kinds)
        found += map(type, self._objects)
        found += map(vars, self._objects)
        for container in self._containers:
            found.append(len(container))
            found += chain.from_iterable(container.items()) if isinstance(container, dict) else container
        for function in self._functions:
            defaults = function.__kwdefaults__
            found += (function.__code__, function.__defaults__, defaults)
            found += chain.from_iterable(defaults.items()) if defaults else ()
        return found


def surroundings() -> tuple[Any, ...]:
    """The settings of this thread and of the process that decide what operations of PyTorch compute."""
    return (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_autocast_cache_enabled(),
        *((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in ("cpu", "cuda")),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_anomaly_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    )


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return _NOTHING


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and type(one) in ATOMS and repr(one) == repr(other))
