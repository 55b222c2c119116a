"""Where a number can live that a loss or a module reads, and how it is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["PLACES", "Holder", "Place", "place"]

Read = Callable[[], Any]
Put = Callable[[float], object]
Place = Callable[..., tuple[Read, Put]]

PLACES: dict[str, Place] = {}
"""For each place, what makes a function that reads the number there, and one that puts another. It begins at 1."""


def place(make: Place) -> Place:
    """Enter a place under its name."""
    PLACES[make.__name__.replace("_", " ")] = make
    return make


class Holder:
    """An object with one attribute."""

    def __init__(self) -> None:
        self.value: Any = 1.0
