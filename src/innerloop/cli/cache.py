"""``innerloop cache``: what the user's cache folder holds, and how to empty it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from innerloop.cli.arguments import UsageError, parse
from innerloop.data.cache import CacheEntry, cache_entries
from innerloop.folders import user_cache

__all__ = ["cache"]

HELP = """\
usage: innerloop cache list [--json]
       innerloop cache clear [--all] [--source DIR] [--dry-run]

list what the cache folder holds that can be made again, or remove some of it
"""


@dataclass(frozen=True)
class ListArguments:
    """List what the cache folder holds that can be made again: sizes, and what each entry was made from."""

    json: bool = False
    """Print one JSON value instead."""


@dataclass(frozen=True)
class ClearArguments:
    """Remove copies of images whose folder or file does not exist any more, or other entries of the cache.

    Nothing is lost: what is needed again is made again. Downloads are kept.
    """

    all: bool = False
    """Remove all entries."""
    source: Path | None = None
    """Remove the copies that were made from this folder or file, or from anything in it."""
    dry_run: bool = False
    """Only say what would be removed."""


def cache(argv: Sequence[str]) -> int:
    """List or clear the cache.

    Raises:
        UsageError: the command line has a mistake.
        OSError: an entry cannot be removed.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP, end="")
        return 0 if argv else 2
    if argv[0] == "list":
        return _list(parse(ListArguments, "cache list", argv[1:]))
    if argv[0] == "clear":
        return _clear(parse(ClearArguments, "cache clear", argv[1:]))
    raise UsageError(f"innerloop cache {argv[0]}: choose list or clear")


def _list(arguments: ListArguments) -> int:
    entries = cache_entries()
    if arguments.json:
        print(json.dumps([_as_json(entry) for entry in entries]))
        return 0
    print(f"{user_cache()}: {_size(sum(entry.size for entry in entries))} that can be made again")
    for entry in entries:
        print(_line(entry))
    if any(entry.gone for entry in entries):
        print("innerloop cache clear removes what is gone")
    return 0


def _clear(arguments: ClearArguments) -> int:
    if arguments.all and arguments.source is not None:
        raise UsageError("innerloop cache clear takes --all or --source, not both")
    chosen = [entry for entry in cache_entries() if _is_chosen(entry, arguments)]
    removed = [entry for entry in chosen if arguments.dry_run or entry.remove()]
    for entry in chosen:
        print(_line(entry) + ("" if entry in removed else " (left: another process is making it)"))
    what = "would be removed" if arguments.dry_run else "removed"
    print(f"{what}: {len(removed)} entries, {_size(sum(entry.size for entry in removed))}")
    return 0


def _is_chosen(entry: CacheEntry, arguments: ClearArguments) -> bool:
    if arguments.all:
        return True
    if arguments.source is None:
        return entry.gone
    wanted = arguments.source.expanduser().absolute()
    return entry.source is not None and (entry.source == wanted or wanted in entry.source.parents)


def _line(entry: CacheEntry) -> str:
    source = "" if entry.source is None else f" of {entry.source}"
    return f"{_size(entry.size):>10}  {entry.what}{source}{' (gone)' if entry.gone else ''}"


def _as_json(entry: CacheEntry) -> dict[str, object]:
    source = None if entry.source is None else str(entry.source)
    return {"what": entry.what, "source": source, "gone": entry.gone, "bytes": entry.size, "path": str(entry.path)}


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
