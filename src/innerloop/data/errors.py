"""The error of the data modules, and names in its messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["DataError", "first_few"]


class DataError(ValueError):
    """A data set is missing, damaged or not what was asked for.

    The message is one line: what was found, what was expected, what to do.

    Example:
        >>> raise DataError("a.zip is not a zip archive. Delete it and download it again.")
        Traceback (most recent call last):
            ...
        innerloop.data.errors.DataError: a.zip is not a zip archive. Delete it and download it again.
    """


def first_few(names: Sequence[Any], most: int = 8) -> str:
    """The first few names, and how many more there are.

    Example:
        >>> first_few(["ant", "bee", "cow"], most=2)
        'ant, bee and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
