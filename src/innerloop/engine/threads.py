"""Chunks of tasks side by side on the threads of a CPU, and what keeps other threads out of their way.

When PyTorch has shared an operation among threads, OpenMP keeps these spinning for some ten milliseconds, in case that
another follows. On the cores that chunks run on, this can cost as much time as the chunks take.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from innerloop.inner.model import StatelessModel

__all__ = ["Workers", "cores", "on_all_cores", "undisturbed"]

T = TypeVar("T")
J = TypeVar("J")


class _Reserved(threading.local):
    cores: int | None = None


_reserved = _Reserved()


def cores() -> int:
    """How many threads there are for chunks: as many as torch's operations have, or had outside :func:`undisturbed`."""
    return torch.get_num_threads() if _reserved.cores is None else _reserved.cores


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it this thread's own operations use one thread, so that none is left spinning."""
    if _reserved.cores is not None:
        yield
        return
    count = _reserved.cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _reserved.cores = None
        torch.set_num_threads(count)


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Within it, and within :func:`undisturbed`, operations are shared among threads after all."""
    count = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        torch.set_num_threads(count)


class Workers:
    """Threads, each with one intra-op thread and a model of its own, since a call swaps a module's parameters.

    Small tasks leave the threads within an operation little to share; whole chunks of tasks share well.

    Args:
        make_model: makes a view of the module that no other thread uses.
    """

    def __init__(self, make_model: Callable[[], StatelessModel]) -> None:
        self._make_model = make_model
        self._models: queue.SimpleQueue[StatelessModel] = queue.SimpleQueue()
        self._executor: ThreadPoolExecutor | None = None
        self._size = 0

    def map(self, run: Callable[[StatelessModel, J], T], jobs: list[J], threads: int) -> Iterator[T]:
        """The results of ``run(model, job)``, in the order of the jobs."""
        if self._executor is None or self._size != threads:
            while self._models.qsize() < threads:
                self._models.put(self._make_model())
            self._executor, self._size = _single_threads(threads), threads

        def one(job: J) -> T:
            model = self._models.get()
            try:
                return run(model, job)
            finally:
                self._models.put(model)

        return self._executor.map(one, jobs)


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads in which torch's operations use one thread; the caller's go on with as many as before."""
    before = torch.get_num_threads()
    all_started = threading.Barrier(count + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # settles it: the first look in a thread would take over the caller's number
        all_started.wait()

    executor = ThreadPoolExecutor(count, "innerloop", start)
    for _ in range(count):
        executor.submit(bool)
    all_started.wait()
    torch.set_num_threads(before)  # a thread's own, and what new threads begin with
    return executor
