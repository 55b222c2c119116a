"""Which parameters a rule concerns, by name."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(patterns: str, name: str) -> bool:
    """Whether a name matches one of some shell-style patterns separated by spaces."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())
