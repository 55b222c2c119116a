"""The error of what is not recorded."""

from __future__ import annotations

__all__ = ["RefusedError"]


class RefusedError(Exception):
    """A computation is not recorded, since it is not shown to depend on its inputs alone; the message says why."""
