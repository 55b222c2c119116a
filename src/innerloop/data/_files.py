"""Folders of images by class: which classes there are, and the files of each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from innerloop.data.base import Split
from innerloop.data.errors import DataError

__all__ = ["SUFFIXES", "ImageFiles", "scan"]

_PLAIN = (".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jp2", ".tif", ".tiff", ".webp", ".avif")
SUFFIXES = frozenset((*_PLAIN, *_PHOTOGRAPHS))
"""The endings of file names that are taken for images."""

SPLIT_FOLDERS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "meta-train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "meta-val": "val",
    "test": "test",
    "testing": "test",
    "meta-test": "test",
}
"""The names of folders that stand for a split, and the split."""


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder, by class.

    Args:
        root: the folder.
        classes: the files of each class, relative to the root and sorted. The name of a class is its folder, relative
            to the root.
        ignored: how many other files there are, by the ending of their names.
    """

    root: Path
    classes: Mapping[str, tuple[str, ...]]
    ignored: Mapping[str, int]

    @property
    def split_folders(self) -> dict[str, list[str]]:
        """The classes of each split, if all classes are in folders named for splits. Otherwise nothing."""
        found: dict[str, list[str]] = {}
        for name in self.classes:
            first, _, rest = name.partition("/")
            split = SPLIT_FOLDERS.get(first.lower())
            if split is None or not rest:
                return {}
            found.setdefault(split, []).append(name)
        return found if {"train", "test"} <= found.keys() else {}

    def pooled(self) -> ImageFiles:
        """The same classes without the folders of splits. Classes of one name are put together."""
        pooled: dict[str, list[str]] = {}
        for name, files in self.classes.items():
            pooled.setdefault(name.partition("/")[2], []).extend(files)
        return ImageFiles(self.root, {n: tuple(sorted(f)) for n, f in sorted(pooled.items())}, self.ignored)


def scan(root: Path) -> ImageFiles:
    """Find the classes of a folder: every folder within it that holds images directly.

    Hidden files, and files whose names do not end as those of images do, are left out. Links are followed.

    Raises:
        DataError: the folder does not exist, cannot be read, or holds no folder with images.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}: expected a folder that has a folder of images for each class.")
    classes: dict[str, tuple[str, ...]] = {}
    ignored: Counter[str] = Counter()
    loose = 0
    for folder, names in _walk(root):
        relative = folder.relative_to(root).as_posix()
        images = sorted(name for name in names if Path(name).suffix.lower() in SUFFIXES)
        ignored.update(Path(name).suffix.lower() or name for name in names if name not in set(images))
        if relative == ".":
            loose = len(images)
        elif images:
            classes[relative] = tuple(f"{relative}/{name}" for name in images)
    if not classes:
        found = f"it has {loose} images, but none in a folder of its class" if loose else "it has no images"
        raise DataError(f"{root}: {found}. Expected a folder for each class, with the images of the class in it.")
    if loose:
        ignored["(images beside the class folders)"] = loose
    return ImageFiles(root, dict(sorted(classes.items())), dict(ignored))


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder, with the names of its files. A folder that is reached twice over links counts once."""
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).") from error

    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(_visible(folders))
        yield Path(folder), sorted(_visible(names))


def _visible(names: Iterable[str]) -> list[str]:
    hidden = ("__MACOSX", "Thumbs.db", "desktop.ini")
    return [name for name in names if not name.startswith(".") and name not in hidden]
