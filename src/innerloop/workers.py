"""Chunks of tasks side by side on the threads of a CPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from innerloop.functional import StatelessModel

__all__ = ["Workers"]

T = TypeVar("T")
J = TypeVar("J")


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
