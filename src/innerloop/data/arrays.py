"""Data sets from arrays in memory: :func:`from_arrays`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerloop.data.classes import LabelledClasses, TensorInputs
from innerloop.data.errors import DataError
from innerloop.data.grouped import GroupedTasks
from innerloop.data.preprocess import ArrayPreprocessing, ImagePreprocessing, Preprocessing, as_list

__all__ = ["from_arrays", "members_of"]


def from_arrays(
    x: Any, y: Any, tasks: Any = None, *, preprocessing: Preprocessing | None = None
) -> LabelledClasses | GroupedTasks:
    """Make a data set from inputs and targets in memory.

    Without ``tasks``, each task is a few classes drawn at random, and ``y`` holds the class of each input. With
    ``tasks``, the examples of one task are those with the same entry of ``tasks``; ``y`` then holds classes that mean
    the same in every task, or numbers to predict.

    Args:
        x: the inputs ``[N, ...]``. uint8 arrays of these shapes are images: ``[N, H, W]``, ``[N, H, W, C]`` or
            ``[N, C, H, W]`` with 1 or 3 channels. Other arrays are taken as they are, as float32. With
            ``preprocessing`` it may be anything that this takes: paths, Pillow images, a data frame.
        y: the targets ``[N]``: names or whole numbers for classes, floats for regression.
        tasks: the task of each example, as names or whole numbers.
        preprocessing: how inputs are prepared. By default it follows from ``x``.

    Raises:
        DataError: the lengths differ, or something is not of a kind that fits.

    Example:
        >>> import innerloop as il
        >>> photographs = np.random.randint(256, size=(60, 32, 32, 3), dtype=np.uint8)
        >>> data = il.data.from_arrays(photographs, np.arange(60) // 10)
        >>> data
        LabelledClasses(6 classes, 60 examples of shape (3, 32, 32), 10 a class)
        >>> train, val, test = data.split(val=0.3, test=0.3, seed=0)
        >>> train.classes, val.classes, test.classes
        (2, 2, 2)
        >>> sensors = il.data.from_arrays(np.random.rand(60, 4), np.random.rand(60), tasks=np.arange(60) // 10)
        >>> list(sensors.episodes(shots=5, queries=5, tasks=2)(torch.Generator()).query_y.shape)
        [2, 5, 1]
    """
    x = x if isinstance(x, Tensor) or preprocessing is not None else np.asarray(x)
    prepare = preprocessing or _guessed(x)
    raw = x.numpy(force=True) if isinstance(x, Tensor) and preprocessing is None else x
    if isinstance(prepare, ImagePreprocessing) and not (isinstance(x, Tensor) and x.is_floating_point()):
        pixels = np.stack([prepare.pixels(image).transpose(2, 0, 1) for image in as_list(raw)])
        inputs = TensorInputs(torch.from_numpy(np.ascontiguousarray(pixels)), prepare)
    else:
        inputs = TensorInputs(prepare(x if isinstance(x, Tensor) else raw), prepare)
    targets = labels_of(y)
    if len(targets) != len(inputs):
        raise DataError(f"there are {len(inputs)} inputs and {len(targets)} targets: expected one for each.")
    if tasks is not None:
        return GroupedTasks.of(inputs, targets, labels_of(tasks))
    if any(isinstance(target, float) for target in targets):
        raise DataError("y holds floats. For classes use names or whole numbers; for regression pass tasks= too.")
    names, members = members_of(targets)
    return LabelledClasses(inputs, names, members)


def labels_of(values: Any) -> list[Any]:
    """Labels or targets as plain values of Python: text, whole numbers or floats."""
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    return [value.item() if isinstance(value, np.generic | Tensor) else value for value in as_list(values)]


def members_of(labels: Sequence[Any]) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """The names of the classes, in sorted order, and the rows of each.

    Example:
        >>> members_of([10, 9, 10])
        (('9', '10'), (tensor([1]), tensor([0, 2])))

    Raises:
        DataError: a label is None.
    """
    rows: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        if label is None:
            raise DataError(f"example {row} has no label (None). Leave it out, or give it one.")
        rows.setdefault(label, []).append(row)
    try:
        order = sorted(rows)
    except TypeError:  # text and numbers together
        order = sorted(rows, key=str)
    return tuple(map(str, order)), tuple(torch.tensor(rows[label]) for label in order)


def _guessed(x: Any) -> Preprocessing:
    """The preprocessing of an array, by its type and shape."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        raise DataError("x is no regular array of numbers. Pass preprocessing=, such as ImagePreprocessing((84, 84)).")
    shape = tuple(int(n) for n in x.shape)
    if len(shape) < 2 or 0 in shape:
        raise DataError(f"x has the shape {list(shape)}: expected the inputs along the first axis, [N, ...].")
    if str(x.dtype).removeprefix("torch.") == "uint8":
        if len(shape) == 3:
            return ImagePreprocessing((shape[1], shape[2]), 1)
        first = len(shape) == 4 and shape[1] in (1, 3) and (isinstance(x, Tensor) or shape[3] not in (1, 3))
        if first:
            return ImagePreprocessing((shape[2], shape[3]), shape[1])
        if len(shape) == 4 and shape[3] in (1, 3):
            return ImagePreprocessing((shape[1], shape[2]), shape[3])
    return ArrayPreprocessing(shape[1:])
