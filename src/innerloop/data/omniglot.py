"""Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 350, 2015): 1,623 characters, 20 drawings each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from innerloop.data._download import download as download_file
from innerloop.data._omniglot_cache import drawings
from innerloop.data._omniglot_source import PARTS, Source, omniglot_layout
from innerloop.data._splits import split_names
from innerloop.data.base import Location, Split, registered_data
from innerloop.data.errors import DataError
from innerloop.data.images import ImageClasses, Rotations
from innerloop.data.preprocess import ImagePreprocessing
from innerloop.folders import user_cache

__all__ = ["find_omniglot", "omniglot"]

_ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_MD5 = {
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
}
_LARGEST = 105  # side of an original, in pixels

# What the authors of each scheme do: (quarter turns in train, in val and test, value of ink).
_AUTHORS: dict[str, tuple[Rotations, Rotations, Literal[0, 1]]] = {
    "maml": ("episode", "episode", 1),
    "reptile": ("classes", "none", 0),
    "vinyals": ("classes", "classes", 1),
    "lake": ("none", "none", 1),
}


def omniglot(
    root: str | Path | None = None,
    split: Literal["train", "val", "test"] = "train",
    scheme: Literal["maml", "reptile", "vinyals", "lake"] = "maml",
    *,
    rotations: Rotations | None = None,
    ink: Literal[0, 1] | None = None,
    size: int = 28,
    device: torch.device | str = "cpu",
    download: bool = False,
    progress: bool | None = None,
) -> ImageClasses:
    """Load the characters of one split, as classes of 20 drawings ``[1, size, size]`` of ink and paper.

    The 1-bit originals are shrunk by nearest neighbour, as in MAML's and Reptile's code. This is done once. A small
    ``.npz`` copy is kept in the user's cache folder. Nothing is written beside the originals.

    =========  =====================================================  ====================  ===
    scheme     characters in train / val / test                       authors' rotations    ink
    =========  =====================================================  ====================  ===
    maml       1100 / 100 / 423 at random. The original split         episode               1
               depends on the file system; this one is fixed.
    reptile    1200 / none / 423 at random: the original split.       train: classes,       0
                                                                      test: none
    vinyals    1028 / 172 / 423, nearly all by whole alphabets, as    classes               1
               Torchmeta ships them.
    lake       964 / none / 659: the two published parts.             none                  1
    =========  =====================================================  ====================  ===

    Args:
        root: the folder that holds ``images_background.zip`` and ``images_evaluation.zip``, or the folders inside them.
            They may also be in its sub-folder ``omniglot``. None means the environment variable ``INNERLOOP_DATA``, or
            else the user's cache folder (``XDG_CACHE_HOME`` or ``~/.cache``, then ``innerloop``).
        split: the characters to load.
        scheme: how the characters are split.
        rotations: how quarter turns are used, see :class:`ImageClasses`. None means as the authors do.
        ink: the value of ink, 0 or 1. Paper has the other value. None means as the authors do.
        size: the side of the images, in pixels.
        device: the device of the images.
        download: fetch the two archives (14 MB) into ``root/omniglot`` if they are absent.
        progress: whether to show progress bars. None shows them only on a terminal.

    Raises:
        DataError: the data is absent, damaged or incomplete, the download fails, or there is no such split.
        ValueError: another argument is out of range.

    Example:
        >>> omniglot("no/such/folder", split="val", scheme="reptile")
        Traceback (most recent call last):
            ...
        innerloop.data.errors.DataError: split='val': Omniglot's scheme 'reptile' has only train, test.
        >>> if find_omniglot():  # 1100 characters
        ...     assert omniglot(split="train").classes == 1100
    """
    names = split_names(scheme, split)
    train_turns, other_turns, authors_ink = _AUTHORS[scheme]
    if rotations is None:
        rotations = train_turns if split == "train" else other_turns
    if ink not in (None, 0, 1):
        raise ValueError(f"ink={ink}: expected 0 or 1.")
    if not 1 <= size <= _LARGEST:
        raise ValueError(f"size={size}: expected 1 to {_LARGEST} pixels.")

    folder = _root(root)
    source = Source.find(folder)
    if source is None and download:
        fetch(folder, progress=progress)
        source = Source.find(folder)
    if source is None:
        raise DataError(
            f"Omniglot is not in {folder}: expected {PARTS[0]}.zip and {PARTS[1]}.zip, or the folders inside "
            "them, there or in its sub-folder omniglot. "
            "Pass download=True (--download), or set INNERLOOP_DATA to their folder."
        )
    layout = omniglot_layout()
    row = {name: i for i, name in enumerate(layout.names)}
    chosen = drawings(source, layout, size, progress)[[row[name] for name in names]]
    inverted = (authors_ink if ink is None else ink) == 0
    data = ImageClasses.from_classes(torch.from_numpy(chosen).to(device), rotations, invert=inverted, maximum=1)
    prepare = ImagePreprocessing((size, size), 1, "stretch", "nearest", invert=not inverted)
    return replace(data, preprocessing=prepare)


def _validates(scheme: str, **options: object) -> bool:
    """Whether a scheme has characters for validation that are in no other split."""
    return scheme in ("maml", "vinyals")


@registered_data("omniglot", kind="classification", network="conv4", held_out=_validates)
def _open(
    split: Split,
    place: Location,
    *,
    scheme: Literal["maml", "reptile", "vinyals", "lake"] = "maml",
    test_rotations: Rotations | None = None,
) -> ImageClasses:
    """Omniglot for a recipe.

    Args:
        split: which characters.
        place: where the archives are.
        scheme: which split into training, validation and test characters, with its authors' preprocessing.
        test_rotations: rotated characters in validation and test; as the split's authors did if not given.
    """
    return omniglot(
        place.root,
        split,
        scheme,
        rotations=None if split == "train" else test_rotations,
        device=place.device,
        download=place.download,
        progress=place.progress,
    )


def find_omniglot(root: str | Path | None = None) -> Path | None:
    """Return the folder that :func:`omniglot` would read, or None if it would need a download.

    The folder holds both parts. Whether the files are sound is not checked.

    Example:
        >>> find_omniglot("no/such/folder") is None
        True
    """
    source = Source.find(_root(root))
    return source.folder if source else None


def fetch(root: Path, *, address: str = _ADDRESS, md5: Mapping[str, str] = _MD5, progress: bool | None = None) -> None:
    """Download the missing parts, beside the part that ``root`` has, or else into ``root/omniglot``."""
    partial = next((s for name in ("", "omniglot") if any((s := Source(root / name)).path(p) for p in PARTS)), None)
    source = partial or Source(root / "omniglot")
    for part in PARTS:
        if source.path(part) is None:
            download_file(f"{address}/{part}.zip", source.folder / f"{part}.zip", md5[part], progress=progress)


def _root(root: str | Path | None) -> Path:
    if root is None:
        root = os.environ.get("INNERLOOP_DATA") or user_cache()
    return Path(root).expanduser()
