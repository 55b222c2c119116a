"""Finds the files of a published data set in a folder, and checks that they are those of the published split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from innerloop.data._files import SPLIT_FOLDERS, ImageFiles, scan
from innerloop.data._packed import ARCHIVES, packed_images
from innerloop.data._published_sets import PUBLISHED, Name, published_split
from innerloop.data._split_files import by_csv, has_csv
from innerloop.data.base import SPLITS, Split
from innerloop.data.classes import TensorInputs
from innerloop.data.errors import DataError
from innerloop.display import first_few

__all__ = ["files_of", "layout_of", "packed_classes"]


def layout_of(name: Name, root: Path) -> str:
    """The form in which a folder holds a data set."""
    known = PUBLISHED[name]
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"{root} {what}: expected the folder with the files of {known.title}.")
    for archive in known.archives:
        if ARCHIVES[archive].find(root) is not None:
            return archive
    return "csv" if has_csv(root) else "folders"


def packed_classes(
    name: Name, root: Path, layout: str, split: Split, *, progress: bool | None
) -> tuple[dict[str, torch.Tensor], TensorInputs]:
    """The rows of each class of a split in an archive, and the images. The classes are checked."""
    archive, title, preprocessing = ARCHIVES[layout], PUBLISHED[name].title, PUBLISHED[name].preprocessing
    folder = archive.find(root)
    if folder is None:
        files = ", ".join(archive.files(split))
        raise DataError(f"{root} lacks {files}, from which {title} was read. Put it back, or name the right folder.")
    found = packed_images(archive, folder, split, preprocessing, progress)
    rows: dict[str, list[int]] = {}
    for row, label in enumerate(found.labels):
        rows.setdefault(label, []).append(row)
    wanted = published_split(name)[split]
    if archive.named:
        absent = sorted(set(wanted) - rows.keys())
        others = [] if archive.whole else sorted(rows.keys() - set(wanted))
        if absent or others:
            what = f"lacks {first_few(absent)}" if absent else f"has {first_few(others)}"
            raise DataError(f"{folder / archive.files(split)[0]} {what}, against the {split} split of {title}.")
    elif len(rows) != len(wanted):
        raise DataError(
            f"{folder / archive.files(split)[0]} has {len(rows)} classes: expected the {len(wanted)} {split} classes "
            f"of {title}."
        )
    return {label: torch.tensor(at) for label, at in rows.items()}, TensorInputs(found.pixels, preprocessing)


def files_of(name: Name, root: Path, layout: str) -> dict[Split, ImageFiles]:
    """The image files of each split. A class is known by the name of its folder, wherever the folder is."""
    known, published = PUBLISHED[name], published_split(name)
    split_of = {each: split for split, names in published.items() for each in names}
    listed: dict[str, Split] = {}
    if layout == "csv":
        files, splits = by_csv(root)
        found = {each: each for each in files.classes}
        listed = {each: split for split in SPLITS for each in splits[split]}
    else:
        try:
            files, found = scan(root), {}
        except DataError as error:
            archives = "".join(f", or {', '.join(ARCHIVES[each].files('train'))} and so on" for each in known.archives)
            raise DataError(
                f"{root} does not hold {known.title}: expected folders of images, named by {known.classes}{archives}. "
                f"docs/data-sets.md lists the forms that are read. ({error})"
            ) from error
        for folder in files.classes:
            each = folder.rpartition("/")[2]
            if each in found and each in split_of:
                raise DataError(
                    f"{root} holds the class {each} of {known.title} twice, in {found[each]} and {folder}. Name the "
                    "folder that holds it once."
                )
            found[each] = folder
            if "/" in folder and (split := SPLIT_FOLDERS.get(folder.partition("/")[0].lower())) is not None:
                listed[each] = split
    if absent := sorted(split_of.keys() - found.keys()):
        what = "the CSV files lack" if layout == "csv" else f"{root} lacks folders of"
        raise DataError(
            f"{what} {len(absent)} of the {len(split_of)} classes of {known.title}: {first_few(absent)}. Folders are "
            f"named by {known.classes}. docs/data-sets.md lists the forms that are read."
        )
    if name == "cub":
        _check_lists(root, {found[each]: files.classes[found[each]] for each in split_of})
    _check_agreement(root, known.title, {each: listed[each] for each in split_of if each in listed}, split_of)
    return {
        split: ImageFiles(root, {each: files.classes[found[each]] for each in names}, {})
        for split, names in published.items()
    }


def _check_agreement(root: Path, title: str, listed: Mapping[str, Split], split_of: Mapping[str, Split]) -> None:
    """Raise if folders or CSV files put classes into other splits than the paper."""
    moved = Counter((split_of[each], split) for each, split in listed.items() if split != split_of[each])
    if set(listed.values()) < {"train", "test"} or not moved:
        return
    (theirs, here), count = moved.most_common(1)[0]
    raise DataError(
        f"{root} has another split than the published one of {title}: {count} of its {theirs} classes are for {here} "
        "there. To train with the split of these files, use --data DIR instead of the recipe, or il.data.from_folder."
    )


def _check_lists(root: Path, classes: Mapping[str, tuple[str, ...]]) -> None:
    """Raise if files are absent that CUB's own list of images names, or a class has more than it names.

    Args:
        root: the folder that was named. The list is there, or in a folder directly within it.
        classes: the image files of each folder of a class.
    """
    lists = [folder / "images.txt" for folder in (root, root.parent, *sorted(p for p in root.iterdir() if p.is_dir()))]
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        return
    try:
        rows = [line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        listed = {row[1].strip() for row in rows}
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise DataError(f"{path} cannot be read as CUB's list of images ({error}). Get it again.") from error
    held = {f"{folder.rpartition('/')[2]}/{Path(file).name}" for folder, files in classes.items() for file in files}
    if absent := sorted(listed - held):
        raise DataError(f"{len(absent)} of the {len(listed)} images in {path} are absent: {first_few(absent, most=3)}.")
    if more := sorted(held - listed):
        raise DataError(
            f"{len(more)} images are not among those of CUB in {path}: {first_few(more, most=3)}. Take them out."
        )
