"""A look at a sample of images: how large they are, and whether they have colour."""

from __future__ import annotations

from itertools import islice, zip_longest

import numpy as np

from innerloop.data._files import ImageFiles
from innerloop.data._pixels import pixels_of
from innerloop.data.errors import DataError

__all__ = ["looked_at"]

_SAMPLE = 100


def looked_at(files: ImageFiles) -> tuple[int, int]:
    """The median of the shorter sides of a sample of images, and the channels they need: 1 or 3.

    Raises:
        DataError: none of the sample can be read.
    """
    turns = (file for turn in zip_longest(*files.classes.values()) for file in turn if file is not None)
    sides, colour, first = [], False, None
    for file in islice(turns, _SAMPLE):
        try:
            pixels = pixels_of(files.root / file, 3).astype(np.int16)
        except DataError as error:
            first = first or error
            continue
        sides.append(min(pixels.shape[:2]))
        # JPEG stores colours coarsely, so that a grey photograph may differ a little between its channels.
        colour = colour or float(np.abs(pixels - pixels.mean(2, keepdims=True)).mean()) > 2
    if not sides:
        raise DataError(f"none of the first {_SAMPLE} images can be read: {first}")
    return int(np.median(sides)), 3 if colour else 1
