"""A folder of images by class: :func:`from_folder`, and the data set ``images`` of the command line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from innerloop.data._checks import check_fields
from innerloop.data._files import ImageFiles, scan
from innerloop.data._image_cache import cached_images, fingerprint_of
from innerloop.data._look import looked_at
from innerloop.data._pixels import Fit
from innerloop.data._split_files import by_csv, has_csv, splits_by_lists
from innerloop.data.base import Kind, Location, Split, registered_data
from innerloop.data.classes import LabelledClasses, TensorInputs, split_names
from innerloop.data.errors import DataError
from innerloop.data.preprocess import ImagePreprocessing
from innerloop.display import first_few
from innerloop.parts import Part

__all__ = ["FolderPlan", "from_folder", "plan_folder"]

_log = logging.getLogger(__name__)

SplitBy = Literal["auto", "folders", "classes"]
Broken = Literal["refuse", "skip"]


class PlanOfImages(Part):
    """What is the same for all plans of images by class. A plan is a frozen dataclass with a field ``root``."""

    root: str

    @property
    def kind(self) -> Kind:
        """Images are for classification."""
        return "classification"

    @property
    def place(self) -> Path:
        """Where the data is."""
        return Path(self.root)

    @property
    def exact(self) -> bool:
        """A task may have any number of classes."""
        return False


@dataclass(frozen=True, repr=False)
class FolderPlan(PlanOfImages):
    """What was decided about a folder of images: its splits, and how images are prepared.

    A training run keeps it, so that evaluation uses the same test classes and the same preprocessing, whatever has been
    added to the folder since.

    Args:
        root: the folder.
        train: the names of the training classes: their folders, relative to the root.
        val: the names of the validation classes.
        test: the names of the test classes.
        preprocessing: how images are prepared.
        pooled: whether the classes of folders named ``train``, ``val`` and ``test`` were put together.
        broken: what happens if files cannot be read: ``refuse`` or ``skip``.
        layout: whether a class is a folder, or CSV files say the class of each file.
    """

    root: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    preprocessing: ImagePreprocessing
    pooled: bool = False
    broken: Literal["refuse", "skip"] = "refuse"
    layout: Literal["folders", "csv"] = "folders"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def held_out(self) -> bool:
        """Whether there are validation classes."""
        return bool(self.val)

    @property
    def smallest(self) -> int:
        """The number of classes of the smallest split that is not empty."""
        return min(len(names) for names in (self.train, self.val, self.test) if names)

    def moved(self, root: Path) -> FolderPlan:
        """The same plan for a folder at another place."""
        return replace(self, root=str(root.expanduser().absolute()))

    def lines(self) -> list[str]:
        """What was decided, in words."""
        prepare = self.preprocessing
        height, width = prepare.size
        return [
            f"data: {self.root}, {len(self.train)} training, {len(self.val)} validation and {len(self.test)} test "
            "classes",
            f"images: {'grey' if prepare.channels == 1 else 'colour'}, {height} x {width} pixels "
            f"(others: {prepare.fit}){', inverted' if prepare.invert else ''}",
        ]

    def open(self, split: Split, place: Location) -> LabelledClasses:
        """Open a split.

        Raises:
            DataError: there is no such split, a class of it is gone, or files are broken and not to be skipped.
        """
        names: tuple[str, ...] = getattr(self, split)
        if not names:
            raise DataError(f"there is no split {split!r} of {self.root}. Train again with a share for it.")
        files = _files(Path(self.root), self.layout, pooled=self.pooled)
        if absent := [name for name in names if name not in files.classes]:
            raise DataError(
                f"{self.root} lacks {len(absent)} of the {len(names)} {split} classes that the run was trained with: "
                f"{first_few(absent)}. Put them back, or name the right folder (--data)."
            )
        return opened(files, names, self.preprocessing, self.broken, place)


def opened(
    files: ImageFiles,
    names: Sequence[str],
    preprocessing: ImagePreprocessing,
    broken: Broken,
    place: Location,
    *,
    title: str = "",
) -> LabelledClasses:
    """The images of some classes of a folder, from the cache. A title tells several sets of one folder apart."""
    every = [file for group in files.classes.values() for file in group]
    found = cached_images(
        title or str(files.root),
        fingerprint_of(files.root, every),
        every,
        lambda name: preprocessing.pixels(files.root / name),
        preprocessing,
        source=files.root,
        progress=place.progress,
    )
    if found.broken:
        reasons = [found.broken[at] for at in sorted(found.broken)]
        listed = "; ".join(reason.rstrip(".") for reason in reasons[:5])
        more = f"; and {len(reasons) - 5} more, listed in {found.folder / 'index.json'}" if len(reasons) > 5 else ""
        if broken == "refuse":
            raise DataError(
                f"{len(reasons)} of {len(every)} images are broken: {listed}{more}. Mend or remove them, or leave them "
                "out with broken='skip' (--broken skip)."
            )
        _log.warning("%d of %d images are broken and left out: %s%s", len(reasons), len(every), listed, more)
    first, members = 0, {}
    for name, group in files.classes.items():
        rows = found.rows[first : first + len(group)]
        members[name] = torch.from_numpy(rows[rows >= 0])
        first += len(group)
    if empty := [name for name in names if not len(members[name])]:
        raise DataError(f"all images of the class {empty[0]!r} are broken. Remove its folder.")
    inputs = TensorInputs(found.pixels, preprocessing)
    options = "--small-classes skip, or .at_least() in Python"
    return LabelledClasses(inputs, tuple(names), tuple(members[name] for name in names), options)


def plan_folder(
    root: str | Path,
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    fit: Fit = "crop",
    invert: bool = False,
    split_by: SplitBy = "auto",
    split_seed: int = 0,
    val_share: float = 0.2,
    test_share: float = 0.2,
    broken: Broken = "refuse",
) -> FolderPlan:
    """Look at a folder of images, and decide on its splits and on how images are prepared.

    Args:
        root: the folder. Every folder in it, at any depth, that holds images is a class.
        image_size: the height and width that images get, in pixels. None chooses 28 if the images are no larger than
            about that, and 84 otherwise.
        channels: 1 for grey, 3 for colour. None chooses grey if a sample of the images has no colour.
        fit: what happens to images that are not square: ``crop``, ``stretch`` or ``pad``.
        invert: swap dark and light.
        split_by: ``folders`` takes the splits from folders named ``train``, ``val`` and ``test``. ``classes`` splits
            the classes at random; if there are such folders, their classes are put together first. ``auto`` takes the
            folders if they are there, or the lists of classes that data sets of the literature carry: ``train.csv`` or
            ``train.txt`` and so on.
        split_seed: the seed of a random split.
        val_share: the share of the classes that are for validation, in a random split.
        test_share: the share of the classes that are for test.
        broken: what to do if files cannot be read: ``refuse`` raises an error that lists them, ``skip`` leaves them
            out and lists them in a warning.

    Raises:
        DataError: there is no folder with classes, the classes cannot be split so, or no image can be read.
    """
    folder = Path(root).expanduser().absolute()
    layout: Literal["folders", "csv"] = "csv" if has_csv(folder) else "folders"
    if layout == "csv":
        files, listed = by_csv(folder)
    else:
        files = scan(folder)
        listed = splits_by_lists(files)
    folders = {} if listed else files.split_folders
    if split_by == "folders" and not folders and not listed:
        raise DataError(f"{folder} has no folders train and test that hold class folders. Use split_by='classes'.")
    if listed and split_by != "classes":
        train, val, test = (tuple(listed[split]) for split in ("train", "val", "test"))
    elif folders and split_by != "classes":
        _check_disjoint(folders, folder)
        train, val, test = (tuple(folders.get(split, ())) for split in ("train", "val", "test"))
    else:
        files = files.pooled() if folders else files
        train, val, test = split_names(list(files.classes), val=val_share, test=test_share, seed=split_seed)
    size, found = looked_at(files)
    side = image_size or (28 if size <= 40 else 84)
    prepare = ImagePreprocessing((side, side), channels or found, fit, invert=invert)
    return FolderPlan(str(folder), train, val, test, prepare, bool(folders) and split_by == "classes", broken, layout)


def from_folder(
    root: str | Path, split: Split = "train", *, progress: bool | None = None, **options: Any
) -> LabelledClasses:
    """Open a folder of images by class.

    Images may have any size and mode. They are read once, and kept in the user's cache folder as pixels of one size, in
    a file that is mapped into memory.

    Args:
        root: the folder. Every folder in it, at any depth, that holds images is a class.
        split: the split to open. The classes of the three splits are disjoint.
        progress: whether to show a progress bar. None shows it only on a terminal.
        options: as for :func:`innerloop.data.folder.plan_folder`: ``image_size``, ``channels``, ``fit``, ``invert``,
            ``split_by``, ``split_seed``, ``val_share``, ``test_share`` and ``broken``.

    Raises:
        DataError: there is no folder with classes, files are broken, or an option does not fit.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("ant", "bee", "cow", "dog", "eel"):
        ...         (Path(folder) / name).mkdir()
        ...         for i in range(3):
        ...             Image.new("L", (30, 20 + i)).save(Path(folder) / name / f"{i}.png")
        ...     from_folder(folder)
        LabelledClasses(3 classes, 9 examples of shape (1, 28, 28), 3 a class)
    """
    return plan_folder(root, **options).open(split, Location(progress=progress))


@registered_data("images", kind="classification", network="conv4", plan=True)
def _plan(
    place: Location,
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    fit: Literal["crop", "stretch", "pad"] = "crop",
    invert: bool = False,
    split_by: Literal["auto", "folders", "classes"] = "auto",
    split_seed: int = 0,
    val_share: float = 0.2,
    test_share: float = 0.2,
    broken: Literal["refuse", "skip"] = "refuse",
    small_classes: Literal["refuse", "skip"] = "refuse",
) -> FolderPlan:
    """A folder of images by class, for a recipe.

    Args:
        place: where the folder is.
        image_size: height and width of the images, in pixels; chosen by the images if not given.
        channels: 1 for grey, 3 for colour; chosen by the images if not given.
        fit: what happens to images that are not square.
        invert: swap dark and light.
        split_by: whether folders train, val and test are the splits, or classes are split at random.
        split_seed: the seed of the random split.
        val_share: share of the classes for validation.
        test_share: share of the classes for test.
        broken: refuse files that cannot be read, or skip them.
        small_classes: refuse classes with too few images, or skip them.
    """
    if place.root is None:
        raise DataError("the folder of the images is not given: name it with --data DIR.")
    return plan_folder(
        place.root,
        image_size=image_size,
        channels=channels,
        fit=fit,
        invert=invert,
        split_by=split_by,
        split_seed=split_seed,
        val_share=val_share,
        test_share=test_share,
        broken=broken,
    )


def _files(root: Path, layout: Literal["folders", "csv"], *, pooled: bool) -> ImageFiles:
    files = by_csv(root)[0] if layout == "csv" else scan(root)
    return files.pooled() if pooled else files


def _check_disjoint(folders: Mapping[str, Sequence[str]], root: Path) -> None:
    """Raise unless the class folders of different splits have different names."""
    names = {split: {name.partition("/")[2] for name in found} for split, found in folders.items()}
    for one, other in (("train", "test"), ("train", "val"), ("val", "test")):
        if both := sorted(names.get(one, set()) & names.get(other, set())):
            raise DataError(
                f"{root}: {len(both)} classes are in both {one} and {other}: {first_few(both)}. Few-shot tasks are "
                "tested on new classes. Put the classes together and split them: split_by='classes' "
                "(--split-by classes)."
            )
