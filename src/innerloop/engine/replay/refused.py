"""The error of a computation that is not recorded."""

from __future__ import annotations

__all__ = ["RefusedError"]


class RefusedError(Exception):
    """A computation is not recorded, because it cannot be shown to depend only on its inputs. The message says why."""
