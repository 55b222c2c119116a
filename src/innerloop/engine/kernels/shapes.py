"""Chooses the shape of the tile in which the kernels compute products: the fastest on this processor.

The compiled library holds several shapes (``csrc/shapes.h``). All give the same bits, and differ only in time. They are
timed once. The name of the fastest is kept beside the library in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from innerloop.engine.kernels.geometry import Geometry

__all__ = ["choose_shape", "fastest", "kept", "shape_names"]

WORTHWHILE = 1.02
"""The first shape is used if its time is at most this multiple of the fastest one's."""

SIZES = ((5, 28, 1, 2), (5, 14, 64, 2), (5, 7, 64, 2), (5, 4, 64, 2), (1, 28, 64, 1), (4, 14, 32, 1))
"""The 3x3 convolutions that are timed: number of images, height and width, channels, and stride."""

ROUNDS = 12
"""How often each is timed. The least time counts, because other programs disturb it least."""


def shape_names(library: ctypes.CDLL) -> list[str]:
    """The names of the shapes for float32, by number."""
    name_of = library.shape_name_float
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_int]
    return [name_of(shape).decode() for shape in range(library.shape_count_float())]


def choose_shape(library: ctypes.CDLL, file: Path) -> str:
    """Make the library use the shape that the file names. If there is no such file, find the fastest and write it.

    If the file cannot be written, the first shape is used.

    Args:
        library: the compiled kernels, with the argument types of their functions set.
        file: the file that keeps the name.

    Returns:
        The name of the shape.
    """
    names = shape_names(library)
    name = kept(file, names, lambda: names[fastest(library, len(names))])
    library.choose_shape_float(names.index(name))
    return name


def kept(file: Path, names: Sequence[str], find: Callable[[], str]) -> str:
    """The name in the file. If there is none, call ``find`` and write its result.

    If several processes do this at once, the name that is written first stays. A file that holds none of the names is
    written again.
    """
    name = _read(file, names)
    if name is not None:
        return name
    try:
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # fails at once if nothing can be written here
            draft = Path(folder) / file.name
            draft.write_text(json.dumps({"shape": find()}))
            if _read(file, names) is None and file.exists():
                draft.replace(file)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(draft, file)
    except OSError:
        return names[0]
    return _read(file, names) or names[0]


def _read(file: Path, names: Sequence[str]) -> str | None:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    name = content.get("shape") if isinstance(content, dict) else None
    return name if name in names else None


def fastest(library: ctypes.CDLL, count: int) -> int:
    """The number of the shape that needs the least time for the products of small convolutions."""
    seconds = [[float("inf")] * count for _ in range(2 * len(SIZES))]
    for (row, call), _ in itertools.product(enumerate(_calls(library)), range(ROUNDS)):
        for shape in range(count):
            library.choose_shape_float(shape)
            start = time.perf_counter()
            call()
            seconds[row][shape] = min(seconds[row][shape], time.perf_counter() - start)
    # Each size has the same weight, however long it takes.
    totals = [sum(row[shape] / min(row) for row in seconds) for shape in range(count)]
    first = totals[0] <= WORTHWHILE * min(totals)
    return 0 if first else totals.index(min(totals))


def _calls(library: ctypes.CDLL) -> list[Callable[[], None]]:
    """Calls of a convolution and of its gradient of the weights, for each size."""
    calls: list[Callable[[], None]] = []
    for images, side, channels, stride in SIZES:
        out = (side - 1) // stride + 1
        sizes = Geometry(1, images, side, side, channels, 64, 3, 3, stride, stride, 1, 1, 1, 1, out, out, 0)
        x, w, y = (torch.ones(n) for n in (images * side**2 * channels, 9 * channels * 64, images * out**2 * 64))

        def forward(sizes: Geometry = sizes, x: torch.Tensor = x, w: torch.Tensor = w, y: torch.Tensor = y) -> None:
            library.convolve_float(sizes, x.data_ptr(), w.data_ptr(), y.data_ptr())

        def gradient(sizes: Geometry = sizes, x: torch.Tensor = x, w: torch.Tensor = w, y: torch.Tensor = y) -> None:
            library.weight_gradient_float(sizes, x.data_ptr(), y.data_ptr(), w.data_ptr())

        calls += [forward, gradient]
    return calls
