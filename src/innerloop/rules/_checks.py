"""Settings of rules: numbers, or scalar tensors where they are themselves learned; and range checks of the numbers."""

from __future__ import annotations

import math

from torch import Tensor

Setting = float | Tensor


def is_off(setting: Setting) -> bool:
    """Whether a setting is a plain zero, so that what it is for can be left out; what is learned never is."""
    return not isinstance(setting, Tensor) and setting == 0


def check_at_least(bound: float, **settings: Setting) -> None:
    """Raise ``ValueError`` for a number that is below ``bound`` or not finite."""
    for name, value in settings.items():
        if not (isinstance(value, Tensor) or (math.isfinite(value) and value >= bound)):
            raise ValueError(f"{name} is {value}; it must be a finite number of at least {bound:g}")


def check_below(bound: float, **settings: Setting) -> None:
    """Raise ``ValueError`` for a number that is not below ``bound``."""
    for name, value in settings.items():
        if not (isinstance(value, Tensor) or value < bound):
            raise ValueError(f"{name} is {value}; it must be below {bound:g}")
