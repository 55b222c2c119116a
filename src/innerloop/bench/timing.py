"""Timing on a shared machine: the contenders take turns, and are compared within a round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Literal, TypeAlias

__all__ = ["CLOCKS", "Clock", "interleaved", "paired_ratio"]

Clock: TypeAlias = Literal["wall", "processor"]
"""Wall-clock time, or processor time summed over threads. Other work on the machine disturbs processor time less."""

PAUSE = 0.05
"""Seconds of pause between two timings. Threads that the last contender left spinning stop in that time."""

CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""The function that reads each clock."""


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = "wall"
) -> dict[str, list[float]]:
    """Time every contender in each round. Return the seconds of each, as a list by name.

    In a round each contender runs once, so that a busy spell of the machine affects all of them. Each round begins with
    another contender. There is no warming up: call every contender once beforehand.

    Raises:
        ValueError: fewer than one round.

    Example:
        >>> seconds = interleaved({"a": lambda: None, "b": lambda: None}, rounds=3)
        >>> {name: len(times) for name, times in seconds.items()}
        {'a': 3, 'b': 3}
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least one is needed")
    names, now = list(contenders), CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            time.sleep(PAUSE)
            start = now()
            contenders[name]()
            seconds[name].append(now() - start)
    return seconds


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median over rounds of the ratio of two contenders within a round.

    Example:
        >>> paired_ratio([2.0, 40.0, 3.0], [1.0, 20.0, 1.0])
        2.0
    """
    return median(a / b for a, b in zip(numerator, denominator, strict=True))
