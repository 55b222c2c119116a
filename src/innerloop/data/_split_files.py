"""Class splits in files, as the data sets of the few-shot literature carry them.

Nothing is known here about which class belongs where: the files say it. Two forms are usual.

- mini-ImageNet: ``train.csv``, ``val.csv`` and ``test.csv`` with the columns ``filename`` and ``label``, beside a
  folder ``images`` with all files.
- CIFAR-FS and others: ``train.txt``, ``val.txt`` and ``test.txt`` with the name of a class in each line, in the folder
  itself or in ``splits/NAME``, beside class folders in the folder itself or in ``data`` or ``images``.
"""

from __future__ import annotations

import csv
from pathlib import Path

from innerloop.data._files import ImageFiles
from innerloop.data.errors import DataError

__all__ = ["by_csv", "has_csv", "splits_by_lists"]

_SPLITS = ("train", "val", "test")


def has_csv(root: Path) -> bool:
    """Whether the splits of a folder are in CSV files."""
    return all((root / f"{split}.csv").is_file() for split in _SPLITS)


def by_csv(root: Path) -> tuple[ImageFiles, dict[str, list[str]]]:
    """The classes of a folder, and those of each split, by its CSV files.

    Raises:
        DataError: a CSV file has other columns, names a file that is absent, or a class is in two splits.
    """
    images = root / "images" if (root / "images").is_dir() else root
    within = "images/" if images != root else ""
    classes: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    for split in _SPLITS:
        path = root / f"{split}.csv"
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read ({error}).") from error
        if not rows or not {"filename", "label"} <= rows[0].keys():
            raise DataError(f"{path}: expected the columns filename and label, and at least one row.")
        found: dict[str, list[str]] = {}
        for row in rows:
            name, label = row["filename"] or "", row["label"] or ""
            if not name or not label or Path(name).is_absolute() or ".." in Path(name).parts:
                raise DataError(f"{path} names the file {name!r} of the class {label!r}: expected a file in {images}.")
            found.setdefault(label, []).append(f"{within}{name}")
        if both := sorted(found.keys() & classes.keys()):
            raise DataError(f"{root}: the class {both[0]!r} is in two splits.")
        splits[split] = sorted(found)
        classes |= found
    absent = [name for files in classes.values() for name in files if not (root / name).is_file()]
    if absent:
        raise DataError(f"{root}: {len(absent)} of the files that the CSV files name are absent, such as {absent[0]}.")
    return ImageFiles(root, {name: tuple(sorted(classes[name])) for name in sorted(classes)}, {}), splits


def splits_by_lists(files: ImageFiles) -> dict[str, list[str]]:
    """The classes of each split by lists of class names; nothing if there are no lists.

    Raises:
        DataError: there are lists of several splits to choose from, a class is in two lists, or has no folder.
    """
    places = [files.root, *sorted(path for path in (files.root / "splits").glob("*") if path.is_dir())]
    places = [place for place in places if all((place / f"{split}.txt").is_file() for split in _SPLITS)]
    if not places:
        return {}
    if len(places) > 1:
        raise DataError(f"{files.root} has several splits: {', '.join(map(str, places))}. Keep one of them.")
    splits: dict[str, list[str]] = {}
    for split in _SPLITS:
        path = places[0] / f"{split}.txt"
        try:
            listed = [line.strip().strip("/") for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read ({error}).") from error
        found = []
        for name in filter(None, listed):
            at = [f"{folder}{name}" for folder in ("", "data/", "images/") if f"{folder}{name}" in files.classes]
            if not at:
                raise DataError(f"{path} names the class {name!r}, which has no folder with images in {files.root}.")
            found.append(at[0])
        splits[split] = sorted(set(found))
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := sorted(set(splits[one]) & set(splits[other])):
            raise DataError(f"{places[0]}: the class {both[0]!r} is in both {one} and {other}.")
    return splits
