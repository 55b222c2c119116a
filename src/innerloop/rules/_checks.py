"""Range checks shared by the rules."""

from __future__ import annotations

import math


def check_at_least(bound: float, **numbers: float) -> None:
    """Raise ``ValueError`` for a number that is below ``bound`` or not finite."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= bound):
            raise ValueError(f"{name} is {value}; it must be a finite number of at least {bound:g}")


def check_below(bound: float, **numbers: float) -> None:
    """Raise ``ValueError`` for a number that is not below ``bound``."""
    for name, value in numbers.items():
        if not value < bound:
            raise ValueError(f"{name} is {value}; it must be below {bound:g}")
