"""The data sets of the few-shot literature, from files that the user has, with the splits of the papers built in.

=====================  ==============  ===================================================================
name                   classes         the split is that of
=====================  ==============  ===================================================================
``mini_imagenet``      64 / 16 / 20    Ravi and Larochelle, ICLR 2017
``tiered_imagenet``    351 / 97 / 160  Ren et al., ICLR 2018
``cifar_fs``           64 / 16 / 20    Bertinetto et al., ICLR 2019
``fc100``              60 / 20 / 20    Oreshkin et al. (TADAM), NeurIPS 2018; whole superclasses of CIFAR-100
``cub``                100 / 50 / 50   Chen et al., ICLR 2019. There are others of these numbers
=====================  ==============  ===================================================================

The names of the classes of each split are in ``splits/``. ``docs/data-sets.md`` says how files are got ready.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from innerloop.data._checks import check_fields
from innerloop.data._packed import ARCHIVES
from innerloop.data._published_files import files_of, layout_of, packed_classes
from innerloop.data._published_sets import PUBLISHED, Name, published_split
from innerloop.data.base import SPLITS, Location, Split, registered_data
from innerloop.data.classes import LabelledClasses
from innerloop.data.errors import DataError
from innerloop.data.folder import PlanOfImages, opened
from innerloop.data.preprocess import ImagePreprocessing
from innerloop.display import first_few

__all__ = ["PublishedPlan", "from_published", "plan_published", "shared_place"]

Broken = Literal["refuse", "skip"]


@dataclass(frozen=True, repr=False)
class PublishedPlan(PlanOfImages):
    """Where the files of a published data set are, and in which form.

    Args:
        name: the data set.
        root: the folder that was named.
        layout: ``folders``, ``csv``, or the name of an archive.
        train: the names of the training classes.
        val: the names of the validation classes.
        test: the names of the test classes.
        images: the number of images of each split.
        preprocessing: how images are prepared.
        broken: what happens if files of folders cannot be read: ``refuse`` or ``skip``.
    """

    name: Literal["mini_imagenet", "tiered_imagenet", "cifar_fs", "fc100", "cub"]
    root: str
    layout: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    images: tuple[int, int, int]
    preprocessing: ImagePreprocessing
    broken: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.layout not in ("folders", "csv", *ARCHIVES):
            raise ValueError(f"layout is {self.layout!r}: expected folders, csv, {', '.join(ARCHIVES)}.")

    @property
    def held_out(self) -> bool:
        """All these data sets have validation classes."""
        return True

    @property
    def smallest(self) -> int:
        """The number of classes of the smallest split."""
        return min(len(getattr(self, split)) for split in SPLITS)

    def moved(self, root: Path) -> PublishedPlan:
        """The same plan for files at another place, in the form that they have there."""
        folder = root.expanduser().absolute()
        return replace(self, root=str(folder), layout=layout_of(self.name, folder))

    def lines(self) -> list[str]:
        """What was found, in words."""
        known = PUBLISHED[self.name]
        height, width = self.preprocessing.size
        counts = " / ".join(f"{n:,}" for n in self.images)
        lines = [
            f"data: {known.title} in {self.root} ({_form(self.layout)}), {len(self.train)} training, "
            f"{len(self.val)} validation and {len(self.test)} test classes, {counts} images",
            f"images: colour, {height} x {width} pixels",
        ]
        if sum(self.images) != known.images:
            lines.append(
                f"note: these are {sum(self.images):,} images, and the published data set has {known.images:,}. "
                "Results are not comparable to the letter."
            )
        return lines

    def open(self, split: Split, place: Location) -> LabelledClasses:
        """Open a split.

        Raises:
            DataError: files are gone, damaged, or not those of this data set.
        """
        names: tuple[str, ...] = getattr(self, split)
        title = PUBLISHED[self.name].title
        if self.layout in ("folders", "csv"):
            files = files_of(self.name, Path(self.root), self.layout)[split]
            if absent := [name for name in names if name not in files.classes]:
                raise DataError(f"{self.root} lacks {len(absent)} classes of {title}: {first_few(absent)}.")
            return opened(files, names, self.preprocessing, self.broken, place, title=f"{self.root} ({title}, {split})")
        members, inputs = packed_classes(self.name, Path(self.root), self.layout, split, progress=place.progress)
        if absent := [name for name in names if name not in members]:
            raise DataError(f"{self.root} lacks {len(absent)} classes of {title}: {first_few(absent)}.")
        return LabelledClasses(inputs, names, tuple(members[name] for name in names))


def _form(layout: str) -> str:
    """The form of the files, in words."""
    named = {"folders": "folders of images", "csv": "CSV files and a folder of images"}
    return named.get(layout) or ", ".join(ARCHIVES[layout].files("train"))


def plan_published(
    name: Name, root: str | Path, *, broken: Broken = "refuse", progress: bool | None = None
) -> PublishedPlan:
    """Find the files of a published data set in a folder, and check that they are those of its split.

    An archive is read once, and its images are kept in the user's cache folder.

    Args:
        name: the data set.
        root: the folder. Archives and folders may also be directly within it.
        broken: what to do if image files cannot be read: ``refuse`` or ``skip``.
        progress: whether to show a progress bar. None shows it only on a terminal.

    Raises:
        DataError: the data set is not there, classes are absent, or the files have another split.
    """
    folder = Path(root).expanduser().absolute()
    layout, published = layout_of(name, folder), published_split(name)
    prepare = PUBLISHED[name].preprocessing
    names, images = dict(published), {}
    if layout in ("folders", "csv"):
        for split, files in files_of(name, folder, layout).items():
            images[split] = sum(map(len, files.classes.values()))
    else:
        for split in SPLITS:
            members, _ = packed_classes(name, folder, layout, split, progress=progress)
            names[split] = published[split] if ARCHIVES[layout].named else tuple(sorted(members))
            images[split] = sum(len(members[each]) for each in names[split])
    counts = (images["train"], images["val"], images["test"])
    return PublishedPlan(
        name, str(folder), layout, names["train"], names["val"], names["test"], counts, prepare, broken
    )


def from_published(
    name: Name, root: str | Path, split: Split = "train", *, broken: Broken = "refuse", progress: bool | None = None
) -> LabelledClasses:
    """Open a split of a data set of the few-shot literature, from files that you have.

    Args:
        name: ``mini_imagenet``, ``tiered_imagenet``, ``cifar_fs``, ``fc100`` or ``cub``.
        root: the folder with its files, in one of the forms in ``docs/data-sets.md``: folders of images by class, CSV
            files, or the archives that it is passed on in. Pickle files are read without running any code of theirs.
        split: the split to open, as the paper made it.
        broken: what to do if image files cannot be read: ``refuse`` or ``skip``.
        progress: whether to show a progress bar. None shows it only on a terminal.

    Raises:
        DataError: the data set is not there, classes are absent, or the files have another split.

    Example:
        >>> from_published("mini_imagenet", "no/such/folder")
        Traceback (most recent call last):
            ...
        innerloop.data.errors.DataError: ...no/such/folder does not exist: expected the folder with the files of \
mini-ImageNet.
    """
    if name not in PUBLISHED:
        raise DataError(f"there is no published data set {name!r}: expected one of {', '.join(PUBLISHED)}.")
    return plan_published(name, root, broken=broken, progress=progress).open(split, Location(progress=progress))


def _opener(name: Name) -> Callable[..., PublishedPlan]:
    """The function that a recipe opens a published data set with."""

    def plan(place: Location, *, broken: Literal["refuse", "skip"] = "refuse") -> PublishedPlan:
        """A published data set, for a recipe.

        Args:
            place: where the files are.
            broken: refuse image files that cannot be read, or skip them.
        """
        root = place.root or shared_place(name)
        if root is None:
            title = PUBLISHED[name].title
            raise DataError(
                f"the folder of {title} is not given: name it with --data-dir DIR, or set INNERLOOP_DATA to a folder "
                f"that holds it as {name.replace('_', '-')}. docs/data-sets.md says how its files are got ready."
            )
        return plan_published(name, root, broken=broken, progress=place.progress)

    return plan


def shared_place(name: str) -> Path | None:
    """The folder of a published data set in ``INNERLOOP_DATA``; None if it is not there, and for other data sets."""
    shared = os.environ.get("INNERLOOP_DATA")
    folder = Path(shared or "").expanduser() / name.replace("_", "-")
    return folder if shared and name in PUBLISHED and folder.is_dir() else None


for _name in PUBLISHED:
    registered_data(_name, kind="classification", network="conv4", plan=True)(_opener(_name))
