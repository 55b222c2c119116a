"""What the user's environment says: where the library keeps what it can make again, and what is switched off."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["switched_off", "user_cache"]


def user_cache() -> Path:
    """The user's cache folder for this library: under ``XDG_CACHE_HOME``, or ``~/.cache``.

    Example:
        >>> user_cache().name
        'innerloop'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "innerloop"


def switched_off(variable: str) -> bool:
    """Whether an environment variable is ``off``, or another word for it.

    Example:
        >>> switched_off("INNERLOOP_NO_SUCH_VARIABLE")
        False
    """
    return os.environ.get(variable, "").lower() in ("off", "0", "false", "no")
