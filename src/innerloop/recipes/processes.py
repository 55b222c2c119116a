"""Trainings side by side, each in a process of its own. A signal to this process stops them all."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

import torch

from innerloop.training.signals import TrainingStopped, stop_signals

__all__ = ["side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")

LOOKS_EVERY = 0.2
"""The seconds between two looks whether a signal came."""


def side_by_side(call: Callable[[Item], Result], items: Iterable[Item], jobs: int, threads: int) -> Iterator[Result]:
    """The results of ``call`` for all items, in the order in which they are ready.

    After the first SIGINT or SIGTERM no item is begun. Those in work stop if they train, and are finished otherwise.

    Args:
        call: is called in other processes.
        items: its arguments.
        jobs: the number of processes.
        threads: the number of CPU threads of each.

    Raises:
        TrainingStopped: a signal asked to stop. Everything is saved.
    """
    waiting, working = list(items), set[Future[Result]]()
    context = get_context("spawn")
    # A pipe, because the system closes it when this process ends, however it ends. It needs no lock.
    open_until_stop, stop = context.Pipe(duplex=False)
    stopped: TrainingStopped | None = None
    pool = ProcessPoolExecutor(jobs, context, _begin, (threads, open_until_stop))
    with stop_signals(enabled=True) as received:
        try:
            while working or (waiting and not (received or stopped)):
                # The pool gets no more items than it has processes, since it would begin with others after a stop.
                while waiting and len(working) < jobs and not (received or stopped):
                    with _interrupt_ignored():
                        working.add(pool.submit(call, waiting.pop(0)))
                done, working = wait(working, LOOKS_EVERY, FIRST_COMPLETED)
                for each in done:
                    try:
                        result = each.result()
                    except TrainingStopped as error:
                        stopped = error
                    except BrokenProcessPool:
                        if not received:  # the signal may have ended a process that did not train
                            raise
                        stopped = TrainingStopped(received[0], 0)
                    else:
                        yield result
                if received or stopped:
                    stop.close()
        finally:
            stop.close()
            pool.shutdown(cancel_futures=True)
            open_until_stop.close()
    if received and (stopped or waiting):
        raise TrainingStopped(received[0], stopped.iteration if stopped else 0)
    if stopped:  # somebody stopped one of the processes
        raise stopped


@contextlib.contextmanager
def _interrupt_ignored() -> Iterator[None]:
    """A context for starting processes. They ignore SIGINT from their very beginning, because they inherit it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin(threads: int, open_until_stop: Connection) -> None:
    """Prepare a process. Ctrl-C reaches all processes of a terminal, but the first process alone decides on it."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_training, args=(open_until_stop,), daemon=True).start()


def _stop_training(open_until_stop: Connection) -> None:
    """Wait for the stop, or for the end of the first process. From then on, stop whatever trains in this process."""
    with contextlib.suppress(OSError):
        open_until_stop.poll(None)
    while True:  # training may begin a little later; where nothing trains, the signal is ignored
        signal.raise_signal(signal.SIGINT)
        time.sleep(LOOKS_EVERY)
