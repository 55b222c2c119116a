"""The user's environment: the cache folder, and environment variables that switch something off."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["switched_off", "user_cache"]


def user_cache() -> Path:
    """The folder for files that the library can make again: under ``XDG_CACHE_HOME``, or under ``~/.cache``.

    Example:
        >>> user_cache().name
        'innerloop'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "innerloop"


def switched_off(variable: str) -> bool:
    """Whether an environment variable is ``off``, ``0``, ``false`` or ``no``.

    Example:
        >>> switched_off("INNERLOOP_NO_SUCH_VARIABLE")
        False
    """
    return os.environ.get(variable, "").lower() in ("off", "0", "false", "no")
