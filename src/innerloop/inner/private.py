"""Private copies of a module. They are called in place of the module, and each thread has its own."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from innerloop.inner.moment import Moment, Place
from innerloop.params import Params

__all__ = ["CopyOfThread", "PrivateCopy", "levels"]


class _Levels(threading.local):
    """Counts the levels of ``vmap`` that this library has entered inside the ``vmap`` over tasks."""

    inner = 0

    @contextlib.contextmanager
    def one_deeper(self) -> Iterator[None]:
        """A context for the function that such an inner ``vmap`` maps."""
        self.inner += 1
        try:
            yield
        finally:
            self.inner -= 1


levels = _Levels()
"""The count of the current thread."""


class PrivateCopy:
    """A copy of a module. It shares the module's tensors, and each of them can be exchanged during a call.

    Args:
        module: the copy.
        shared: the shared tensors by their ``id``, in the form of ``copy.deepcopy``'s memo.

    Attributes:
        module: the copy.
    """

    def __init__(self, module: nn.Module, shared: dict[int, Any]) -> None:
        self.module = module
        self._shared = shared
        self._places: dict[str, list[Place]] = {}
        self._tensors: Params = {}

    @classmethod
    def of(cls, module: nn.Module, moment: Moment) -> PrivateCopy:
        """Copy a user's module.

        Raises:
            ValueError: the module cannot be copied.
        """
        shared = {id(t): t for t in moment.tensors.values() if t.is_leaf and id(t) not in moment.fixed}
        try:
            return cls(copy.deepcopy(module, dict(shared)), shared)
        except Exception as error:
            raise ValueError(
                f"{type(module).__name__} cannot be copied with copy.deepcopy ({error}); "
                "attributes that hold computed tensors or open handles must be dropped first"
            ) from error

    def again(self) -> PrivateCopy:
        """Make another copy of the same module."""
        other = PrivateCopy(copy.deepcopy(self.module, dict(self._shared)), self._shared)
        other.find_places()
        return other

    def find_places(self) -> None:
        """Find where the copy holds its tensors. Call this when the copy is ready to be called."""
        found = Moment(self.module)
        names = found.names | {
            id(t): name for name, t in (*self.module.named_buffers(), *self.module.named_parameters())
        }
        self._tensors = {names[id(t)]: t for t in found.tensors.values() if id(t) not in found.fixed}
        self._places = {name: found.places[id(t)] for name, t in self._tensors.items()}

    def tensors_besides(self, names: Iterable[str]) -> Params:
        """The tensors that can be exchanged, except those of these names."""
        return {name: t for name, t in self._tensors.items() if name not in names}

    def missing(self, names: Iterable[str]) -> list[str]:
        """Which of these parameters have no place where they could be exchanged."""
        return [name for name in names if name not in self._places]

    def call(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The module's output with these tensors in place of its own. Its own are put back afterwards."""
        places = [(place, tensor) for name, tensor in tensors.items() for place in self._places[name]]
        before = [holder[key] for (holder, key), _ in places]
        for (holder, key), tensor in places:
            holder[key] = tensor
        try:
            output: Tensor = self.module(x)
            return output
        finally:
            for ((holder, key), _), tensor in zip(places, before, strict=True):
                holder[key] = tensor


class CopyOfThread(threading.local):
    """Gives each thread a private copy of its own, because a call exchanges the copy's tensors.

    Args:
        master: the copy from which the others are copied. It is never called itself.
    """

    def __init__(self, master: PrivateCopy) -> None:  # called once in each thread that asks
        self._master = master
        self._own: PrivateCopy | None = None

    def __call__(self) -> PrivateCopy:
        """The copy of the current thread."""
        if self._own is None:
            self._own = self._master.again()
        return self._own
