"""Deferred outputs: a layer's output is written only when something reads it. So layers can be fused.

Batch norm, ReLU and pooling are faster as one kernel. But the next layer is known only when the module calls it. So an
output is handed out unwritten. The mode of :mod:`innerloop.engine.kernels.intercept` sees each call of torch before it
is made, and writes the outputs that are still needed. It does not see some calls, such as those of TorchScript. These
meet a trap: a mode of the dispatcher, which every operation passes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from innerloop.engine import _torch
from innerloop.engine.kernels.normalisation import NormCall
from innerloop.engine.kernels.tasks import Stack

__all__ = ["Deferred", "Unwritten"]


@dataclass
class Unwritten:
    """An output that the module has, and that is not written yet.

    Attributes:
        output: the tensor that the module has.
        value: the stacked tensor behind it.
        write: writes its values.
        made_of: the tasks, the batch norm, and whether ReLU is part of it. The next layer can be fused with these.
    """

    output: Tensor | None
    value: Tensor
    write: Callable[[], None]
    made_of: tuple[Stack, NormCall, bool]

    def wanted(self) -> bool:
        """Whether anything else holds the output or the tensor behind it. Releases the output if not."""
        if sys.getrefcount(self.output) > _ALONE:
            return True
        self.output = None
        return sys.getrefcount(self.value) > _ALONE or _torch.uses(self.value) > 1


_ALONE = 2  # references to an object that only one attribute holds: the attribute, and getrefcount's argument


class Deferred:
    """The outputs that are not written yet, in one mode."""

    def __init__(self) -> None:
        self._waiting: list[Unwritten] = []
        self._trap = _Trap(self.write_all)
        self._armed = False

    def add(self, unwritten: Unwritten) -> None:
        """Add an output, the last one handed out."""
        if not _torch.has("modes"):  # no trap can be set
            unwritten.write()
            return
        self._waiting.append(unwritten)

    def find(self, output: Tensor) -> tuple[Stack, NormCall, bool] | None:
        """The parts of an output, if it was handed out last and is not written."""
        last = self._waiting[-1] if self._waiting else None
        return last.made_of if last is not None and last.output is output else None

    def arm(self) -> None:
        """Set the trap: the dispatcher will write everything before the next operation."""
        if self._waiting and not self._armed:
            self._trap.__enter__()
            self._armed = True

    def disarm(self) -> None:
        """Remove the trap, unless the module has since entered a mode of its own. That mode must leave first."""
        if self._armed:
            modes = _torch.dispatch_modes()
            # If the trap is not there, a mode that the module entered before it has left, and removed the trap.
            if modes and (modes[-1] is self._trap or self._trap not in modes):
                self._armed = False
                self._trap.__exit__(None, None, None)

    def settle(self) -> None:
        """Write the outputs that something still holds, and forget the others."""
        while self._waiting:
            unwritten = self._waiting.pop()
            if unwritten.wanted():
                unwritten.write()

    def write_all(self) -> None:
        """Write all outputs."""
        while self._waiting:
            self._waiting.pop().write()


class _Trap(_torch.Mode):
    def __init__(self, spring: Callable[[], None]) -> None:
        super().__init__()
        self._spring = spring

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._spring()
        return func(*args, **(kwargs or {}))
