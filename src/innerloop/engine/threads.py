"""Worker threads that run chunks of tasks side by side on a CPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

__all__ = ["Workers"]

T = TypeVar("T")
J = TypeVar("J")


class Workers:
    """Worker threads. In each of them torch's operations use one thread.

    The operations of small tasks are too small to share among threads. Whole chunks of tasks share well.
    """

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._made_for = (0, 0)

    def map(self, run: Callable[[J], T], jobs: list[J], threads: int) -> Iterator[T]:
        """The results of ``run(job)``, in the order of the jobs."""
        here = (threads, os.getpid())  # a forked process has none of its parent's threads
        if self._executor is None or self._made_for != here:
            self._executor, self._made_for = _single_threads(threads), here
        return self._executor.map(run, jobs)


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch's operations use one thread. The caller's own number of threads stays the same."""
    before = torch.get_num_threads()
    all_started = threading.Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # the first call in a thread would otherwise take over the caller's number
        all_started.wait()

    executor = ThreadPoolExecutor(count, "innerloop", start)
    for _ in range(count):
        executor.submit(bool)
    all_started.wait()
    torch.set_num_threads(before)  # the setting of this thread, and of threads yet to start
    return executor
