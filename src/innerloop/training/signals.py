"""Signals that ask training to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TrainingStopped", "stop_signals"]


class TrainingStopped(Exception):  # noqa: N818 (not an error)
    """A signal asked training to stop, and everything is saved.

    Attributes:
        signal_number: the signal.
        iteration: the number of iterations done.
    """

    def __init__(self, signal_number: int, iteration: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name} after {iteration} iterations")
        self.signal_number, self.iteration = signal_number, iteration

    def __reduce__(self) -> tuple[type[TrainingStopped], tuple[int, int]]:
        return TrainingStopped, (self.signal_number, self.iteration)  # it may pass from one process to another


@contextmanager
def stop_signals(*, enabled: bool) -> Iterator[list[int]]:
    """A context that collects SIGINT and SIGTERM. A second signal acts as usual."""
    received: list[int] = []
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
