"""The error of the data modules."""

from __future__ import annotations

__all__ = ["DataError"]


class DataError(ValueError):
    """A data set is missing, damaged or not what was asked for.

    The message is one line: what was found, what was expected, what to do.

    Example:
        >>> raise DataError("a.zip is not a zip archive. Delete it and download it again.")
        Traceback (most recent call last):
            ...
        innerloop.data.errors.DataError: a.zip is not a zip archive. Delete it and download it again.
    """
