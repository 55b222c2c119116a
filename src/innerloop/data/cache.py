"""What the user's cache folder holds: copies of images, and other files that the library can make again."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from innerloop.data._image_cache import INDEX_FILE, NotFreeError, locked
from innerloop.folders import user_cache

__all__ = ["CacheEntry", "cache_entries"]


@dataclass(frozen=True)
class CacheEntry:
    """Something in the user's cache folder that the library can make again.

    Args:
        what: what it is: ``images``, ``omniglot`` or ``kernels``.
        path: the file or the folder.
        source: the folder or file that it was made from. None if it has none, or if that is not known.
        size: its size in bytes.
    """

    what: str
    path: Path
    source: Path | None
    size: int

    @property
    def gone(self) -> bool:
        """Whether its source does not exist any more. Then nothing can use it."""
        return self.source is not None and not self.source.exists()

    def remove(self) -> bool:
        """Remove it. Return whether it was removed: one that another process is making is left.

        Raises:
            OSError: it cannot be removed.
        """
        if self.what != "images":
            shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink(missing_ok=True)
            return True
        try:
            with locked(self.path, wait=False):
                for copy in _inside(self.path):  # the folder itself stays: a process may wait for its lock
                    shutil.rmtree(copy)
        except NotFreeError:
            return False
        return True


def cache_entries() -> list[CacheEntry]:
    """Everything in the user's cache folder that the library can make again, the largest first.

    Downloads are not among them, and neither is the list of networks that the user has allowed.

    Example:
        >>> all(entry.size >= 0 for entry in cache_entries())
        True
    """
    root = user_cache()
    copies = (path for path in _inside(root / "images") if _inside(path))
    found = [CacheEntry("images", path, _source(path), _size(path)) for path in copies]
    found += [CacheEntry("omniglot", path, None, _size(path)) for path in sorted((root / "omniglot").glob("*.npz"))]
    if (root / "kernels").is_dir():
        found.append(CacheEntry("kernels", root / "kernels", None, _size(root / "kernels")))
    return sorted(found, key=lambda entry: (-entry.size, str(entry.path)))


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _source(place: Path) -> Path | None:
    """What the copies in a folder were made from, as their indices say."""
    for index in sorted(place.glob(f"*/{INDEX_FILE}")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(index.read_text(encoding="utf-8"))
            return Path(about.get("source") or about["name"])  # copies of earlier versions have a name alone
    return None


def _size(path: Path) -> int:
    return sum(each.lstat().st_size for each in _files(path))


def _files(path: Path) -> Iterator[Path]:
    yield from (each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
