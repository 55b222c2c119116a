"""Which parameters a rule concerns, by name."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase


def named(patterns: str) -> Callable[[str], bool]:
    """Whether a name matches one of some shell-style patterns separated by spaces."""
    each = patterns.split()
    return lambda name: any(fnmatchcase(name, pattern) for pattern in each)
