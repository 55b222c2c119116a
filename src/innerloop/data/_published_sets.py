"""What is known of the published data sets: their names, sizes and forms, and the classes of each split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resource
from typing import Literal, cast

from innerloop.data.base import Split
from innerloop.data.preprocess import ImagePreprocessing

__all__ = ["PUBLISHED", "Name", "Published", "published_split"]

Name = Literal["mini_imagenet", "tiered_imagenet", "cifar_fs", "fc100", "cub"]
"""The name of a published data set."""


@dataclass(frozen=True)
class Published:
    """What is known of a published data set.

    Args:
        title: its name in prose.
        images: the number of images, as published.
        preprocessing: the size of the images, and how others become like these.
        archives: the archives that it is passed on in, by their names in ``ARCHIVES``. Folders of images by class, and
            CSV files beside a folder ``images``, are read for every data set.
        classes: what the name of a class's folder is.
    """

    title: str
    images: int
    preprocessing: ImagePreprocessing
    archives: tuple[str, ...]
    classes: str


_SMALL = ImagePreprocessing((32, 32), 3, "stretch", "bilinear")

PUBLISHED: Mapping[Name, Published] = {
    "mini_imagenet": Published(
        "mini-ImageNet",
        60_000,
        ImagePreprocessing((84, 84), 3, "stretch", "lanczos"),  # as the code of MAML does
        ("mini-imagenet-cache",),
        "WordNet identifiers, such as n01532829",
    ),
    "tiered_imagenet": Published(
        "tieredImageNet",
        779_165,
        ImagePreprocessing((84, 84), 3, "stretch", "bicubic"),  # as the authors' code does
        ("tiered-png", "tiered-npz"),
        "WordNet identifiers, such as n01530575",
    ),
    "cifar_fs": Published(
        "CIFAR-FS",
        60_000,
        _SMALL,
        ("cifar-100", "cifar-100-archive", "cifar-fs-pickles"),
        "the names of CIFAR-100, such as maple_tree",
    ),
    "fc100": Published(
        "FC100",
        60_000,
        _SMALL,
        ("cifar-100", "cifar-100-archive", "fc100-pickles"),
        "the names of CIFAR-100, such as maple_tree",
    ),
    "cub": Published(
        "CUB",
        11_788,
        ImagePreprocessing((84, 84), 3, "crop", "bilinear"),
        (),
        "those of CUB_200_2011/images, such as 001.Black_footed_Albatross",
    ),
}
"""The published data sets, by name."""


@cache
def published_split(name: Name) -> dict[Split, tuple[str, ...]]:
    """The names of the classes of each split, sorted.

    Example:
        >>> [len(names) for names in published_split("tiered_imagenet").values()]
        [351, 97, 160]
    """
    text = (resource("innerloop.data") / "splits" / f"{name.replace('_', '-')}.json").read_text(encoding="utf-8")
    return {cast(Split, split): tuple(names) for split, names in json.loads(text)["splits"].items()}
