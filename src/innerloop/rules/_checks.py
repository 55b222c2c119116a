"""The type of a rule's setting, and range checks.

A setting is a number. It is a scalar tensor where it is itself meta-learned, and then it is not checked.
"""

from __future__ import annotations

import math

from torch import Tensor

Setting = float | Tensor


def is_off(setting: Setting) -> bool:
    """Whether a setting is a plain zero, so that its term can be left out. A learned setting is never off."""
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
