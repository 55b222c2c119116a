"""Outputs that are written only when something looks at them, so that a layer can take part in the next one.

Batch norm, ReLU and pooling are faster as one. Which of them follows is known only when the module calls it, so an
output is handed out unwritten. The mode of :mod:`innerloop.engine.kernels.intercept` sees each call of torch before
it is made, and then writes what is still wanted. Calls that it does not see, such as those of TorchScript, meet a trap
below: a mode of the dispatcher, which every operation passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from innerloop.engine import _torch
from innerloop.engine.kernels.normalisation import Norm
from innerloop.engine.kernels.tasks import Stack

__all__ = ["Deferred", "Unwritten"]


@dataclass
class Unwritten:
    """An output that the module was given.

    Attributes:
        output: the tensor as the module sees it.
        value: the stacked tensor behind it.
        write: fills it in.
        made_of: the tasks, the batch norm that it is of, and whether ReLU is part of it; the next layer may take over.
    """

    output: Tensor | None
    value: Tensor
    write: Callable[[], None]
    made_of: tuple[Stack, Norm, bool]

    def wanted(self) -> bool:
        """Whether somebody else holds the output or what is behind it. Lets go of the former."""
        if sys.getrefcount(self.output) > _ALONE:
            return True
        self.output = None
        return sys.getrefcount(self.value) > _ALONE or _torch.uses(self.value) > 1


_ALONE = 2  # references to an object that only one attribute holds: that one, and getrefcount's argument


class Deferred:
    """The outputs of one mode that are not written yet."""

    def __init__(self) -> None:
        self._waiting: list[Unwritten] = []
        self._trap = _Trap(self.write_all)
        self._armed = False

    def add(self, unwritten: Unwritten) -> None:
        """One more, the last handed out."""
        if not _torch.has("modes"):  # no trap can be set
            unwritten.write()
            return
        self._waiting.append(unwritten)

    def find(self, output: Tensor) -> tuple[Stack, Norm, bool] | None:
        """What an output is made of, if it was handed out last and is not written."""
        last = self._waiting[-1] if self._waiting else None
        return last.made_of if last is not None and last.output is output else None

    def arm(self) -> None:
        """Have the dispatcher write everything before any operation that comes."""
        if self._waiting and not self._armed:
            self._trap.__enter__()
            self._armed = True

    def disarm(self) -> None:
        """Take the trap away, unless the module has entered a mode of its own since, which must go first."""
        if self._armed:
            modes = _torch.dispatch_modes()
            # If it is not there, what left was a mode that the module entered before: it took the trap for itself.
            if modes and (modes[-1] is self._trap or self._trap not in modes):
                self._armed = False
                self._trap.__exit__(None, None, None)

    def settle(self) -> None:
        """Write what is wanted, and forget the rest, which nothing can reach any more."""
        while self._waiting:
            unwritten = self._waiting.pop()
            if unwritten.wanted():
                unwritten.write()

    def write_all(self) -> None:
        """Write everything."""
        while self._waiting:
            self._waiting.pop().write()


class _Trap(_torch.Mode):
    def __init__(self, spring: Callable[[], None]) -> None:
        super().__init__()
        self._spring = spring

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._spring()
        return func(*args, **(kwargs or {}))
