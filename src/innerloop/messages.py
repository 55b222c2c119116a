"""What errors say."""

from __future__ import annotations

__all__ = ["first_line"]


def first_line(error: object) -> str:
    r"""The first line of what an error, or a tool, says; an error without words says its type.

    Example:
        >>> first_line(ValueError("no such thing\nand more")), first_line(KeyError())
        ('no such thing', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
