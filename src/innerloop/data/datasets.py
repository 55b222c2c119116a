"""Data sets of other libraries: any ``torch.utils.data.Dataset`` or Hugging Face data set with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

from innerloop.data.arrays import labels_of, members_of
from innerloop.data.classes import LabelledClasses
from innerloop.data.errors import DataError
from innerloop.data.preprocess import ArrayPreprocessing, ImagePreprocessing, Preprocessing

__all__ = ["DatasetInputs", "from_dataset"]

_INPUTS, _LABELS = ("image", "img", "x", "input", "inputs"), ("label", "labels", "fine_label", "target", "y", "class")


@dataclass(frozen=True, eq=False)
class DatasetInputs:
    """The inputs of a data set that is read one item at a time, when they are asked for.

    Args:
        dataset: the data set.
        key: the place of the input in an item: a number for tuples, a name for mappings.
        preprocessing: how inputs are prepared.
    """

    dataset: Any
    key: int | str
    preprocessing: Preprocessing

    def __len__(self) -> int:
        """The number of inputs."""
        return len(self.dataset)

    def at(self, rows: Tensor) -> Tensor:
        """The prepared inputs of some rows."""
        return self.preprocessing([self.dataset[row][self.key] for row in rows.tolist()])


def from_dataset(
    dataset: Any,
    *,
    labels: Sequence[Any] | str | int | None = None,
    inputs: str | int | None = None,
    preprocessing: Preprocessing | None = None,
    progress: bool | None = None,
) -> LabelledClasses:
    """Make classes of a data set with labels, such as those of torchvision or of Hugging Face ``datasets``.

    Items are read when an episode needs them, so the data may be larger than memory. If the data set itself draws
    random numbers, as for augmentation, an episode does not depend on its generator alone.

    Args:
        dataset: has ``len(dataset)`` and ``dataset[i]``, which is a tuple ``(input, label)`` or a mapping.
        labels: the label of each item, or the place of the label in an item. None finds them: in ``dataset.targets`` or
            ``dataset.labels``, in a column named ``label`` or the like, or else by reading every item once.
        inputs: the place of the input in an item. None takes the first, or a column named ``image``, ``x`` or the like.
        preprocessing: how inputs are prepared. None takes tensors as they are, and images at the size of the first.
        progress: whether to show a bar while items are read for their labels. None shows it only on a terminal.

    Raises:
        DataError: there are no items, or an input or label cannot be found.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = from_dataset(TensorDataset(torch.rand(40, 3), torch.arange(40) % 4))
        >>> data
        LabelledClasses(4 classes, 40 examples of shape (3,), 10 a class)
    """
    if not hasattr(dataset, "__len__") or not len(dataset):
        raise DataError("the data set has no length or no items: expected a map-style data set.")
    first = dataset[0]
    key = _key(first, inputs, _INPUTS, 0, "input")
    if labels is None or isinstance(labels, str | int):
        labels = _labels(dataset, first, labels, progress)
    found = labels_of(labels)
    if len(found) != len(dataset):
        raise DataError(f"there are {len(dataset)} items and {len(found)} labels: expected one for each.")
    if any(isinstance(label, float) for label in found):
        raise DataError("the labels are floats: expected names or whole numbers.")
    names, members = members_of(found)
    classes = getattr(dataset, "classes", None) or getattr(_feature(dataset, labels), "names", None)
    if isinstance(classes, list | tuple) and all(name.isdigit() and int(name) < len(classes) for name in names):
        titles = tuple(str(classes[int(name)]) for name in names)
        names = titles if len(set(titles)) == len(titles) else names
    return LabelledClasses(DatasetInputs(dataset, key, preprocessing or _guessed(first[key])), names, members)


def _key(item: Any, given: str | int | None, known: Sequence[str], place: int, what: str) -> str | int:
    if isinstance(item, Mapping):
        name = given if given is not None else next((name for name in known if name in item), None)
        if name not in item or name is None:
            raise DataError(f"an item has {', '.join(map(repr, item))}: name the {what} with {what}s=.")
        return name
    key = place if given is None else given
    if not isinstance(item, tuple | list) or not isinstance(key, int) or not -len(item) <= key < len(item):
        raise DataError(f"an item is a {type(item).__name__}: expected a tuple (input, label), or a mapping.")
    return key


def _labels(dataset: Any, first: Any, given: str | int | None, progress: bool | None) -> Any:
    if given is None:
        for name in ("targets", "labels"):
            kept = getattr(dataset, name, None)
            if kept is not None and hasattr(kept, "__len__") and len(kept) == len(dataset):
                return kept
    key = _key(first, given, _LABELS, 1, "label")
    if isinstance(key, str) and hasattr(dataset, "column_names"):
        return dataset[key]  # Hugging Face: a column, without the images
    disable = None if progress is None else not progress
    return [dataset[i][key] for i in tqdm(range(len(dataset)), desc="reading labels", disable=disable)]


def _feature(dataset: Any, labels: Any) -> Any:
    """The feature of Hugging Face that knows the names of labels."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None
    return next((features[name] for name in _LABELS if name in features), None)


def _guessed(item: Any) -> Preprocessing:
    if isinstance(item, Tensor) and item.is_floating_point():
        return ArrayPreprocessing(tuple(item.shape))
    size = getattr(item, "size", None)
    if hasattr(item, "mode") and isinstance(size, tuple):  # Pillow's images
        return ImagePreprocessing((size[1], size[0]), 1 if item.mode in ("1", "L", "I;16") else 3)
    shape = tuple(int(n) for n in getattr(item, "shape", ()))
    if str(getattr(item, "dtype", "")).removeprefix("torch.") == "uint8" and len(shape) in (2, 3):
        if len(shape) == 2:
            return ImagePreprocessing((shape[0], shape[1]), 1)
        first = shape[0] in (1, 3) and (isinstance(item, Tensor) or shape[2] not in (1, 3))
        return ImagePreprocessing(shape[1:] if first else shape[:2], shape[0] if first else shape[2])  # type: ignore[arg-type]
    if shape:
        return ArrayPreprocessing(shape)
    raise DataError(f"an input is a {type(item).__name__}: pass preprocessing=, such as ImagePreprocessing((84, 84)).")
