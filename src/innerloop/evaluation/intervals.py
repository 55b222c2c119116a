"""Confidence intervals of a mean from few values."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["student_t", "t_half_width"]


def t_half_width(values: Sequence[float], confidence: float = 0.95) -> float:
    """Half the width of Student's confidence interval of the mean, for independent values such as those of seeds.

    Args:
        values: the values.
        confidence: how often such intervals hold the true mean.

    Returns:
        The half width. NaN for fewer than two values.

    Example:
        >>> round(t_half_width([1.0, 2.0, 3.0]), 3)
        2.484
    """
    count = len(values)
    if count < 2:
        return math.nan
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return student_t(count - 1, confidence) * math.sqrt(variance / count)


def student_t(freedom: int, confidence: float = 0.95) -> float:
    """The number t for which Student's distribution lies within -t and t with this probability.

    Args:
        freedom: the degrees of freedom, at least 1.
        confidence: the probability.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> round(student_t(2), 3), round(student_t(9), 3)
        (4.303, 2.262)
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"freedom={freedom}, confidence={confidence}: expected at least 1, and a number between 0 and 1"
        )
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(freedom)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """The probability of an absolute value below ``tan(angle) * sqrt(freedom)``.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
