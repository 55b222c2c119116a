"""The error of this package."""

from __future__ import annotations

__all__ = ["ExportError"]


class ExportError(ValueError):
    """Something cannot be exported. The message says what, why, and what to do."""
