"""Out of ``vmap`` and back: a mapped tensor stands for a stacked tensor, which this file takes out of it.

The public way to give a function its own rule for batching and for second derivatives is ``autograd.Function`` with a
``vmap`` method. It costs a third of a millisecond for each call. So this file reads the stacked tensor directly from
the
mapped one, by private names from :mod:`innerloop.engine._torch`. If PyTorch lacks them, nothing is replaced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from innerloop.engine import _torch
from innerloop.inner.private import levels as own_levels

__all__ = ["Stack", "innermost", "mapped", "outside", "stacked"]


def mapped() -> bool:
    """Whether this runs under the ``vmap`` over tasks, and under no transform of the user's.

    The library's own ``vmap`` over queries may be inside it (:data:`innerloop.inner.private.levels`).
    """
    stack = _torch.transforms()
    mine = bool(stack) and len(stack) == 1 + own_levels.inner
    return mine and all(level.key() == _torch.by_vmap for level in stack)


def outside() -> contextlib.AbstractContextManager[Any]:
    """A context in which no ``vmap`` is active. In it, work with stacked tensors."""
    manager: contextlib.AbstractContextManager[Any] = _torch.without_transforms()
    return manager


@dataclass(frozen=True)
class Stack:
    """The levels of ``vmap``, the outermost first. Stacked tensors have an axis for each, in front."""

    levels: tuple[int, ...]

    def unstacked(self, x: Tensor) -> Tensor:
        """The mapped tensor that stands for this stacked one."""
        for level in self.levels:
            x = _torch.mapped_again(x, 0, level)
        return x


def stacked(*tensors: Tensor | None, shared: Sequence[Tensor | None] = ()) -> tuple[Stack, list[Any]]:
    """The stacked tensors behind mapped ones, all with the same number of leading axes. Use them in ``outside()``.

    Args:
        tensors: each gets every leading axis in full size.
        shared: where one of these is not mapped, it gets an axis of size 1.
    """
    unwrapped = [_unwrapped(tensor) for tensor in (*tensors, *shared)]
    levels = tuple(sorted({level for _, axes in unwrapped for level, _ in axes}))
    sizes: dict[int, int] = {}
    fronts = []
    for tensor, axes in unwrapped:
        if tensor is not None:
            for position, (level, axis) in enumerate(axes):
                if axis:  # otherwise it stays the tensor that was mapped
                    tensor = tensor.movedim(position + axis, position)  # noqa: PLW2901
                sizes[level] = tensor.shape[position]
        fronts.append(tensor)
    results: list[Any] = []
    for index, (tensor, (_, axes)) in enumerate(zip(fronts, unwrapped, strict=True)):
        if tensor is not None and len(axes) < len(levels):
            own = {level for level, _ in axes}
            for position, level in enumerate(levels):
                if level not in own:
                    tensor = tensor.unsqueeze(position)  # noqa: PLW2901
            if index < len(tensors):
                tensor = tensor.expand(*(sizes[level] for level in levels), *tensor.shape[len(levels) :])  # noqa: PLW2901
        results.append(tensor)
    return Stack(levels), results


def innermost(x: Tensor) -> Tensor:
    """The tensor behind a mapped one. Any other tensor is returned itself."""
    found, _ = _unwrapped(x)
    return x if found is None else found


def _unwrapped(x: Tensor | None) -> tuple[Tensor | None, list[tuple[int, int]]]:
    """The tensor behind a mapped one, and the (level, axis) pairs, the outermost level first."""
    axes: list[tuple[int, int]] = []
    while x is not None and _torch.is_mapped(x):
        axes.append((_torch.mapped_level(x), _torch.mapped_axis(x)))
        x = _torch.beneath(x)
    return x, axes[::-1]
