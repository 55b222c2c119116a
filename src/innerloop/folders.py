"""Where the library keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_cache"]


def user_cache() -> Path:
    """The user's cache folder for this library: under ``XDG_CACHE_HOME``, or ``~/.cache``.

    Example:
        >>> user_cache().name
        'innerloop'
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "innerloop"
