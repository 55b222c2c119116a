"""The text and the place of an error, for messages."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

__all__ = ["first_line", "first_sentence", "own_line"]


def first_line(error: object) -> str:
    r"""The first line of the message of an error or a tool. For an error without a message it is the type.

    Example:
        >>> first_line(ValueError("no such thing\nand more")), first_line(KeyError())
        ('no such thing', 'KeyError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def first_sentence(error: object) -> str:
    r"""The first sentence of an error's message, without its full stop.

    Example:
        >>> first_sentence(ValueError("vmap: no such thing. Please file an issue"))
        'vmap: no such thing'
    """
    return first_line(error).split(". ")[0].rstrip(" .")


def own_line(error: BaseException) -> str | None:
    """The innermost line outside PyTorch and this library that an error passed through: ``file.py, line 3``."""
    libraries = [Path(torch.__file__).parent, Path(__file__).parents[1]]
    lines = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(library) for library in libraries)
    ]
    return lines[-1] if lines else None
