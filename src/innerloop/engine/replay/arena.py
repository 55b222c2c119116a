"""The arena: one piece of memory for each thread, which recordings reuse. Here their blocks get places in it."""

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

__all__ = ["arena_of_thread", "arranged", "bytes_of"]

LINE = 64
"""The bytes of a cache line. Each block begins at a cache line."""


def bytes_of(layout: Layout) -> int:
    """The bytes from the beginning of the block to the last element."""
    if 0 in layout.size:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(layout.size, layout.stride, strict=True))
    return (layout.offset + last + 1) * layout.dtype.itemsize


def arranged(sizes: Mapping[int, int], born: Mapping[int, int], last: Mapping[int, int]) -> tuple[dict[int, int], int]:
    """Give each block a place. No two blocks that are needed at the same step overlap. Return places and total bytes.

    Args:
        sizes: the size of each block, in bytes.
        born: the step that first needs each block.
        last: the step that last needs each block.

    Example:
        >>> arranged({1: 64, 2: 64, 3: 128}, born={1: 0, 2: 0, 3: 2}, last={1: 1, 2: 1, 3: 2})
        ({1: 0, 2: 64, 3: 0}, 128)
    """
    at: dict[int, int] = {}
    gaps: list[tuple[int, int]] = []  # begin and end of each free range, in order
    alive: list[tuple[int, int]] = []  # the last step and the number of each placed block
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
        elif gaps and gaps[-1][1] == total:  # the last gap reaches the end, which can grow
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
    """The gaps with one more. Gaps that touch are joined."""
    joined: list[tuple[int, int]] = []
    for one in sorted([*gaps, (begin, end)]):
        if joined and joined[-1][1] == one[0]:
            joined[-1] = (joined[-1][0], one[1])
        else:
            joined.append(one)
    return joined


class _Own(threading.local):
    """The arena of a thread, and for each user of it the tensors that lie there."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.views: WeakKeyDictionary[Any, list[tuple[int, Tensor]]] = WeakKeyDictionary()


_own = _Own()


def arena_of_thread(
    size: int, user: object, layouts: Sequence[tuple[int, int, Layout]]
) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The arena of this thread, and tensors that lie in it. The arena stays the same until a call needs a larger one.

    Args:
        size: the least number of bytes.
        user: the object that the tensors are kept for.
        layouts: for each tensor, a number of the caller's choice, the byte where it begins, and its layout.

    Returns:
        The memory, and each tensor with its number.
    """
    if _own.memory is None or len(_own.memory) < size:
        _own.memory = None  # first, so that the two are not in memory at once
        _own.views = WeakKeyDictionary()
        _give_back_what_is_free()
        _own.memory = torch.empty(size, dtype=torch.uint8)
    if user not in _own.views:
        _own.views[user] = [(number, _view(_own.memory, begin, layout)) for number, begin, layout in layouts]
    return _own.memory, _own.views[user]


def _give_back_what_is_free() -> None:
    """Make the C library return free memory. The arena replaces the memory that calls before the recording used."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _view(memory: Tensor, begin: int, layout: Layout) -> Tensor:
    piece = memory[begin : begin + bytes_of(layout)].view(layout.dtype)
    return piece.as_strided(layout.size, layout.stride)
