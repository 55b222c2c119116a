"""Checks for code that silently gives other results under ``torch.func.vmap`` than in a loop over tasks.

Such code is an error while tasks run together. Then ``execution="auto"`` runs the tasks one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from innerloop.engine import _torch
from innerloop.engine.kernels import tasks
from innerloop.randomness import RandomState

__all__ = ["Draws", "check_call", "check_seed"]

_SET = (
    "a forward pass that sets the seed gives each task other numbers under vmap, where a loop over tasks gives all of "
    "them the same; run tasks one by one, with execution='serial'"
)
_HOOKS = (Tensor.register_hook, Tensor.register_post_accumulate_grad_hook)


def check_call(func: Callable[..., Any], kwargs: Mapping[str, Any] | None) -> None:
    """Raise ``RuntimeError`` for a call that has another meaning under ``vmap``.

    Under ``vmap`` a hook on a tensor is never called. A draw from a generator gives each task its own numbers. In a
    loop, a generator that starts anew in each forward pass gives all tasks the same numbers.
    """
    if func in _HOOKS:
        raise RuntimeError("a hook on a tensor is not called under vmap; run tasks one by one, with execution='serial'")
    if kwargs and kwargs.get("generator") is not None:
        raise RuntimeError(
            "a generator that a forward pass draws from gives other numbers under vmap than in a loop over tasks; draw "
            "from PyTorch's global one, or run tasks one by one, with execution='serial'"
        )


def check_seed(before: int) -> None:
    """Raise ``RuntimeError`` if a forward pass has set the seed of the global generator, which was ``before``."""
    if torch.initial_seed() != before:
        raise RuntimeError(_SET)


class Draws:
    """Notices that a forward pass sets a global generator, even to the seed or the state that it has already had.

    The generators must change within calls of PyTorch's functions only. Otherwise something sets them in between.

    Args:
        device: the device whose global generator counts, besides the CPU's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.note()

    def note(self) -> None:
        """Remember the generators as they are after a call."""
        with self._untransformed():
            self._state = RandomState.now(self._device)

    def check(self) -> None:
        """Raise ``RuntimeError`` if the generators have changed since :meth:`note`."""
        with self._untransformed():
            same = self._state.same_as(RandomState.now(self._device))
        if not same:
            raise RuntimeError(_SET)

    def _untransformed(self) -> contextlib.AbstractContextManager[object]:
        """A context in which the state of a generator is a plain tensor, also under a transform of the user's."""
        return tasks.outside() if _torch.has("vmap") else contextlib.nullcontext()
