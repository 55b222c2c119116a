"""Memory of a recording that is used again: which of its blocks lie where in one piece of memory for each thread."""

from __future__ import annotations

import ctypes
import threading
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from innerloop.engine.replay.recorder import Layout

__all__ = ["arena_of_thread", "bytes_of", "planned"]

LINE = 64
"""Bytes of a cache line; each block begins with one."""


def bytes_of(layout: Layout) -> int:
    """From the first element of the memory to the last, in bytes."""
    if 0 in layout.size:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(layout.size, layout.stride, strict=True))
    return (layout.offset + last + 1) * layout.dtype.itemsize


def planned(sizes: Mapping[int, int], born: Mapping[int, int], last: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Where each block lies, so that none overlaps another that is alive at the same step; and the bytes of all.

    Args:
        sizes: of each block, in bytes.
        born: the step that first needs the block.
        last: the step that last needs it.

    Example:
        >>> planned({1: 64, 2: 64, 3: 128}, born={1: 0, 2: 0, 3: 2}, last={1: 1, 2: 1, 3: 2})
        ({1: 0, 2: 64, 3: 0}, 128)
    """
    at: dict[int, int] = {}
    gaps: list[tuple[int, int]] = []  # begin and end of what is free, in order
    alive: list[tuple[int, int]] = []  # the last step of each block that lies somewhere, and the block
    total = 0
    for block in sorted(sizes, key=lambda block: (born[block], -sizes[block])):
        while alive and alive[0][0] < born[block]:
            over = alive.pop(0)[1]
            gaps = _freed(gaps, at[over], at[over] + _whole(sizes[over]))
        need = _whole(sizes[block])
        fitting = [(end - begin, begin, end) for begin, end in gaps if end - begin >= need]
        if fitting:
            _, begin, end = min(fitting)
            gaps.remove((begin, end))
        elif gaps and gaps[-1][1] == total:  # the end can grow
            begin, end = gaps.pop()[0], 0
        else:
            begin, end = total, 0
        if begin + need < end:
            insort(gaps, (begin + need, end))
        at[block] = begin
        total = max(total, begin + need)
        insort(alive, (last[block], block))
    return at, total


def _whole(size: int) -> int:
    return max(1, -(-size // LINE)) * LINE


def _freed(gaps: Iterable[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """The gaps and one more, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for one in sorted([*gaps, (begin, end)]):
        if joined and joined[-1][1] == one[0]:
            joined[-1] = (joined[-1][0], one[1])
        else:
            joined.append(one)
    return joined


class _Own(threading.local):
    """The memory of a thread, and for each user of it the tensors that lie there."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.views: WeakKeyDictionary[Any, list[tuple[int, Tensor]]] = WeakKeyDictionary()


_own = _Own()


def arena_of_thread(
    size: int, user: object, layouts: Sequence[tuple[int, int, Layout]]
) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """Bytes of this thread alone, the same ones in every call until more are wanted; and tensors that lie there.

    Args:
        size: how many bytes at least.
        user: what the tensors are kept for.
        layouts: of each tensor, any number, the byte where it begins, and its layout.

    Returns:
        The bytes, and each tensor with its number.
    """
    if _own.memory is None or len(_own.memory) < size:
        _own.memory = None  # first, or both would be there at once
        _own.views = WeakKeyDictionary()
        _give_back_what_is_free()
        _own.memory = torch.empty(size, dtype=torch.uint8)
    if user not in _own.views:
        _own.views[user] = [(number, _view(_own.memory, begin, layout)) for number, begin, layout in layouts]
    return _own.memory, _own.views[user]


def _give_back_what_is_free() -> None:
    """Have the C library return what the calls before the recording needed, which the arena is instead of."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _view(memory: Tensor, begin: int, layout: Layout) -> Tensor:
    piece = memory[begin : begin + bytes_of(layout)].view(layout.dtype)
    return piece.as_strided(layout.size, layout.stride)
