"""Matching parameters by name."""

from __future__ import annotations

from fnmatch import fnmatchcase


def matches(patterns: str, name: str) -> bool:
    """Whether a name matches at least one of the patterns: shell-style, separated by spaces."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())
