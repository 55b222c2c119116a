"""``Runtime``: every setting of the whole process that this library changes. They can be seen and switched off."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

__all__ = ["Runtime", "runtime"]

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # glibc's malloc.h


class _Own(threading.local):
    cores: int | None = None


@dataclass(eq=False)
class Runtime:
    """The settings of the whole process that the library changes while it computes.

    There is one instance, :data:`innerloop.runtime`. Each setting is restored when the call that changed it ends,
    except :meth:`keep_memory`.

    Attributes:
        share_cores: whether operations outside chunks run on one thread while an engine works
            (``torch.set_num_threads``). Then none of OpenMP's threads spins on a core that a chunk needs. If off,
            results are the same, and chunks on several threads take longer.
        set_aside_fused: whether PyTorch's fused attention and cuDNN's recurrent layers are switched off where they
            cannot be differentiated twice or batched. If off, such models raise PyTorch's own error.
        keeps_memory: whether :meth:`keep_memory` was called.

    Example:
        >>> import innerloop as il
        >>> print(il.runtime.describe())
        cores: operations outside chunks use one thread during a call (share_cores=True)
        fused kernels: set aside during a call where they lack a derivative (set_aside_fused=True)
        memory: as the C library has it; keep_memory() would keep freed memory for the next call
    """

    share_cores: bool = True
    set_aside_fused: bool = True
    keeps_memory: bool = False
    _own: _Own = field(default_factory=_Own, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _inside: list[int] = field(default_factory=list, init=False, repr=False)

    def describe(self) -> str:
        """One line for each setting: what is changed, when, and the attribute that switches it off."""
        cores = "operations outside chunks use one thread during a call" if self.share_cores else "left alone"
        fused = "set aside during a call where they lack a derivative" if self.set_aside_fused else "left alone"
        memory = (
            "freed memory is kept until the process ends (keep_memory() was called)"
            if self.keeps_memory
            else "as the C library has it; keep_memory() would keep freed memory for the next call"
        )
        return (
            f"cores: {cores} (share_cores={self.share_cores})\n"
            f"fused kernels: {fused} (set_aside_fused={self.set_aside_fused})\n"
            f"memory: {memory}"
        )

    def keep_memory(self) -> bool:
        """Make the C library keep the memory that tensors free, until the process ends.

        Returning memory and asking for it again costs a page fault for every 4 KiB. That is up to a fifth of the time
        of a small convolutional network's step on a CPU. The command line does this for its own process. A library must
        not do it unasked, because it affects the whole process and cannot be undone. All threads then share one arena,
        because glibc's arenas of single threads return large blocks whatever the thresholds are.

        Returns:
            Whether the C library has such a setting. glibc has.
        """
        mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, 1 << 28)
            mallopt(_TRIM_THRESHOLD, 1 << 30)
            mallopt(_ARENA_MAX, 1)
            self.keeps_memory = True
        return self.keeps_memory

    def cores(self) -> int:
        """The number of threads for chunks.

        It is the number that torch's operations have outside :meth:`undisturbed`.
        """
        return torch.get_num_threads() if self._own.cores is None else self._own.cores

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """A context in which this thread's own operations use one thread, so that no other thread is left spinning.

        After PyTorch has shared an operation among threads, OpenMP keeps these threads spinning for about ten
        milliseconds, in case another operation follows. On the cores where chunks run, this can cost as much time as
        the chunks.
        """
        if self._own.cores is not None or not self.share_cores:
            yield
            return
        with self._lock:
            # A thread that asks for the first time while another is in this context would see one thread.
            count = max(torch.get_num_threads(), *self._inside, 1)
            self._inside.append(count)
            self._own.cores = count
            torch.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._inside.remove(count)
                self._own.cores = None
                torch.set_num_threads(count)

    @contextlib.contextmanager
    def on_all_cores(self) -> Iterator[None]:
        """A context inside :meth:`undisturbed` in which operations are shared among threads again."""
        count, wanted = torch.get_num_threads(), self.cores()
        if count == wanted:
            yield
            return
        torch.set_num_threads(wanted)
        try:
            yield
        finally:
            torch.set_num_threads(count)


runtime = Runtime()
"""The instance that the library uses."""
