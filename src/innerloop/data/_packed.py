"""Archives of images as the few-shot literature passes them on: pickle files, ``.npz`` files, and that of CIFAR-100.

Each kind of archive is an :class:`Archive`: which files it has, and how the images of a split are read from them.
Pickle files are read by :mod:`innerloop.data._unpickle`, which runs no code of theirs.
"""

from __future__ import annotations

import contextlib
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from innerloop.data._image_cache import CachedImages, Items, cached_images, fingerprint_of, kept_images
from innerloop.data._unpickle import load_arrays
from innerloop.data.errors import DataError
from innerloop.data.preprocess import ImagePreprocessing

__all__ = ["ARCHIVES", "Archive", "packed_images"]


@dataclass(frozen=True)
class Archive:
    """A kind of archive.

    Args:
        files: the names of its files, for a split.
        read: reads the images of a split from these files: the images, and the class of each. An image is an array of
            uint8, or the bytes of an image file.
        named: whether the classes have the names of the published split. Otherwise only their number can be checked.
        whole: whether the files hold all classes, and not those of one split.
    """

    files: Callable[[str], tuple[str, ...]]
    read: Callable[[Path, str], tuple[Items[Any], list[str]]]
    named: bool = False
    whole: bool = False

    def find(self, root: Path) -> Path | None:
        """The folder that holds the archive: this one, or one directly within it. None if there is none."""
        names = {name for split in ("train", "val", "test") for name in self.files(split)}
        with contextlib.suppress(OSError):
            for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
                if all((folder / name).is_file() for name in names):
                    return folder
        return None


def packed_images(
    archive: Archive, folder: Path, split: str, preprocessing: ImagePreprocessing, progress: bool | None
) -> CachedImages:
    """The images of a split with their labels, from the cache. The archive is read if they are not there.

    Raises:
        DataError: a file is damaged or holds something else, or the cache cannot be written.
    """
    files = archive.files(split)
    name, fingerprint = str(folder / files[0]), fingerprint_of(folder, files)
    if (found := kept_images(name, fingerprint, preprocessing)) is not None:
        return found
    images, labels = archive.read(folder, split)
    if len(images) != len(labels) or not labels:
        raise DataError(f"{name} has {len(images)} images and {len(labels)} labels: expected one for each.")
    found = cached_images(
        name, fingerprint, images, preprocessing.pixels, preprocessing, labels=labels, progress=progress
    )
    if found.broken:
        reason = found.broken[min(found.broken)]
        raise DataError(f"{len(found.broken)} of the images in {name} are broken: {reason} Get the file again.")
    return found


def _fields(source: Path | IO[bytes], name: str, *wanted: str) -> list[Any]:
    """Some entries of the dictionary in a pickle file."""
    found = load_arrays(source, name)
    if not isinstance(found, dict) or not set(wanted) <= found.keys():
        held = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise DataError(f"{name} holds {held}: expected a dictionary with {' and '.join(wanted)}.")
    return [found[key] for key in wanted]


def _checked(images: Any, name: str) -> NDArray[np.uint8]:
    """Colour images in one array."""
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise DataError(f"{name} holds images {array.dtype} {list(array.shape)}: expected uint8 [N, height, width, 3].")
    return array


def _numbers(labels: Any, name: str) -> list[int]:
    """Labels that are whole numbers."""
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{name} holds labels {array.dtype} {list(array.shape)}: expected whole numbers.")
    return [int(label) for label in array]


def _text(value: Any) -> str:
    """A name, which may have come as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# mini-ImageNet: all images in one array, and the rows of each class by its WordNet identifier


def _read_mini(folder: Path, split: str) -> tuple[Items[Any], list[str]]:
    path = folder / _mini_files(split)[0]
    images, classes = _fields(path, str(path), "image_data", "class_dict")
    images = _checked(images, str(path))
    labels = [""] * len(images)
    if not isinstance(classes, dict):
        raise DataError(f"{path}: class_dict is a {type(classes).__name__}: expected the rows of each class.")
    for name, rows in classes.items():
        for row in _numbers(list(rows), f"{path}, class {name},"):
            if not 0 <= row < len(images) or labels[row]:
                raise DataError(f"{path}: row {row} of the class {name} is absent or in two classes. Get it again.")
            labels[row] = _text(name)
    if "" in labels:
        raise DataError(f"{path}: {labels.count('')} images are of no class. Get it again.")
    return images, labels


def _mini_files(split: str) -> tuple[str, ...]:
    return (f"mini-imagenet-cache-{split}.pkl",)


# tieredImageNet: labels in a pickle file; images as a list of PNG files in a pickle file, or as one array in .npz


def _tiered_labels(folder: Path, split: str) -> list[str]:
    path = folder / f"{split}_labels.pkl"
    found = load_arrays(path)
    found = found if isinstance(found, dict) else {}
    labels = next((found[key] for key in ("label_specific", "labels") if key in found), None)
    if labels is None:
        raise DataError(f"{path} holds {', '.join(found) or 'no dictionary'}: expected label_specific or labels.")
    titles = [_text(title) for title in found.get("label_specific_str", ())]
    numbers = _numbers(labels, str(path))
    # Two classes may have one title, such as the two meanings of "crane". So the number comes first.
    return [f"{n:03d} {titles[n]}" if 0 <= n < len(titles) else f"{n:03d}" for n in numbers]


def _read_tiered_png(folder: Path, split: str) -> tuple[Items[Any], list[str]]:
    path = folder / f"{split}_images_png.pkl"
    images = load_arrays(path)
    if not isinstance(images, list):
        raise DataError(f"{path} holds a {type(images).__name__}: expected a list of PNG files.")
    return [_png(image, str(path)) for image in images], _tiered_labels(folder, split)


def _png(image: Any, name: str) -> bytes:
    """The bytes of a PNG file, which OpenCV gives as an array, and Python 2 as text."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return image.tobytes()
    if isinstance(image, bytes | str):
        return image if isinstance(image, bytes) else image.encode("latin1")
    raise DataError(f"{name} holds a {type(image).__name__}: expected PNG files.")


@dataclass(frozen=True)
class NpzRows:
    """The images of an array ``images`` in an ``.npz`` file, one after another. The array need not fit into memory.

    The authors' program wrote them with OpenCV, whose colours are blue, green and red. They are turned round here.
    """

    path: Path

    def _open(self, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or fortran:
            raise DataError(f"{self.path} holds images {dtype} {list(shape)}: expected uint8 [N, height, width, 3].")
        return shape, dtype

    def __len__(self) -> int:
        """The number of images."""
        with self._array() as file:
            return self._open(file)[0][0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The images."""
        with self._array() as file:
            shape, _ = self._open(file)
            size = int(np.prod(shape[1:]))
            for _ in range(shape[0]):
                row = file.read(size)
                if len(row) < size:
                    raise DataError(f"{self.path} is cut off. Get it again.")
                yield np.frombuffer(row, np.uint8).reshape(shape[1:])[:, :, ::-1]

    @contextlib.contextmanager
    def _array(self) -> Iterator[IO[bytes]]:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open("images.npy") as file:
                yield file
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.path} is no .npz file with an array 'images' ({error}). Get it again.") from error


def _read_tiered_npz(folder: Path, split: str) -> tuple[Items[Any], list[str]]:
    return NpzRows(folder / f"{split}_images.npz"), _tiered_labels(folder, split)


# CIFAR-FS and FC100: an array and labels for each split; the classes have no names there


def _split_pickles(prefix: str) -> Archive:
    def files(split: str) -> tuple[str, ...]:
        return (f"{prefix}_{split}.pickle",)

    def read(folder: Path, split: str) -> tuple[Items[Any], list[str]]:
        path = folder / files(split)[0]
        images, labels = _fields(path, str(path), "data", "labels")
        return _checked(images, str(path)), [f"{split} {label:02d}" for label in _numbers(labels, str(path))]

    return Archive(files, read)


# CIFAR-100 itself: rows of 3,072 levels, colour by colour; its two parts are put together


def _read_cifar(folder: Path, split: str) -> tuple[Items[Any], list[str]]:
    parts = {name: _fields(folder / name, str(folder / name), *keys) for name, keys in _CIFAR.items()}
    return _cifar(parts, str(folder))


def _read_cifar_archive(folder: Path, split: str) -> tuple[Items[Any], list[str]]:
    path, parts = folder / "cifar-100-python.tar.gz", {}
    try:
        with tarfile.open(path) as archive:
            for name, keys in _CIFAR.items():
                file = archive.extractfile(f"cifar-100-python/{name}")
                if file is None:
                    raise DataError(f"{path} holds no file {name}.")
                parts[name] = _fields(file, f"{path}, {name}", *keys)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"{path} is not the archive of CIFAR-100 ({error}). Get it again.") from error
    return _cifar(parts, str(path))


_CIFAR: Mapping[str, tuple[str, ...]] = {
    "train": ("data", "fine_labels"),
    "test": ("data", "fine_labels"),
    "meta": ("fine_label_names",),
}


def _cifar(parts: Mapping[str, list[Any]], name: str) -> tuple[Items[Any], list[str]]:
    names = [_text(each) for each in parts["meta"][0]]
    images = np.concatenate([np.asarray(parts[part][0]) for part in ("train", "test")])
    labels = _numbers([*parts["train"][1], *parts["test"][1]], name)
    if images.dtype != np.uint8 or images.shape[1:] != (3072,) or not all(0 <= n < len(names) for n in labels):
        raise DataError(f"{name} holds images {images.dtype} {list(images.shape)}: expected uint8 [N, 3072].")
    return images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), [names[label] for label in labels]


ARCHIVES: Mapping[str, Archive] = {
    "mini-imagenet-cache": Archive(_mini_files, _read_mini, named=True),
    "tiered-png": Archive(lambda split: (f"{split}_images_png.pkl", f"{split}_labels.pkl"), _read_tiered_png),
    "tiered-npz": Archive(lambda split: (f"{split}_images.npz", f"{split}_labels.pkl"), _read_tiered_npz),
    "cifar-fs-pickles": _split_pickles("CIFAR_FS"),
    "fc100-pickles": _split_pickles("FC100"),
    "cifar-100": Archive(lambda split: tuple(_CIFAR), _read_cifar, named=True, whole=True),
    "cifar-100-archive": Archive(
        lambda split: ("cifar-100-python.tar.gz",), _read_cifar_archive, named=True, whole=True
    ),
}
"""The kinds of archives, by name."""
