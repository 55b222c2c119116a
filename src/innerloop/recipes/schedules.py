"""Schedules of the outer learning rate: a factor of its first value for each iteration."""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ["SCHEDULES", "RateSchedule"]


def constant(iteration: int, iterations: int) -> float:
    """Stay constant."""
    return 1.0


def linear(iteration: int, iterations: int) -> float:
    """Fall to zero in a straight line, as in Reptile."""
    return max(0.0, 1 - iteration / max(1, iterations))


def cosine(iteration: int, iterations: int) -> float:
    """Fall to zero along half a cosine."""
    return (1 + math.cos(math.pi * min(1.0, iteration / max(1, iterations)))) / 2


def halving(iteration: int, iterations: int) -> float:
    """Halve every 2000 iterations, as for prototypical networks."""
    return 0.5 ** (iteration // 2000)


class RateSchedule(Protocol):
    """``(iteration, iterations) -> factor``."""

    def __call__(self, iteration: int, iterations: int) -> float:
        """The factor of the learning rate at an iteration."""
        ...


SCHEDULES: dict[str, RateSchedule] = {"constant": constant, "linear": linear, "cosine": cosine, "halving": halving}
