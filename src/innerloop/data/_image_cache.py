"""A copy of a folder's images, all of one size, in one file that is mapped into memory.

The copy is in the user's cache folder. It is made once for a folder and a way of preparing images, and again if a file
in the folder changes. It may be larger than memory: the operating system reads the parts that are used.

A copy is written under another name and renamed when it is whole, so that a process that is killed leaves no damaged
copy. A lock lets one process at a time make a copy. Others wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from innerloop.data.errors import DataError
from innerloop.data.preprocess import ImagePreprocessing
from innerloop.folders import user_cache
from innerloop.parts import describe

try:
    import fcntl
except ImportError:  # on Windows two processes may both make a copy; one of the two is kept
    fcntl = None  # type: ignore[assignment,unused-ignore]

__all__ = [
    "INDEX_FILE",
    "CachedImages",
    "Items",
    "NotFreeError",
    "cached_images",
    "fingerprint_of",
    "kept_images",
    "locked",
]

_log = logging.getLogger(__name__)
_FORMAT = 1  # raise it when the contents of the files change
_PIXELS, INDEX_FILE = "pixels.bin", "index.json"
_AHEAD = 64  # images that are read ahead of the one that is written

Item = TypeVar("Item")
Read_co = TypeVar("Read_co", covariant=True)


class Items(Protocol[Read_co]):
    """Things that are read one after another, of a known number."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __iter__(self) -> Iterator[Read_co]:
        """One after another."""
        ...


@dataclass(frozen=True)
class CachedImages:
    """The images of a data set.

    Args:
        pixels: uint8 ``[N, channels, height, width]``, in the order of the list that was asked for. The images that are
            broken are not among them.
        rows: the row of each image that was asked for; -1 for a broken one.
        broken: why an image could not be read, by its place in the list.
        folder: where the copy is.
        labels: the class of each image that was asked for, if the copy keeps them.
    """

    pixels: Tensor
    rows: NDArray[np.int64]
    broken: Mapping[int, str]
    folder: Path
    labels: tuple[str, ...] = ()


def fingerprint_of(root: Path, files: Sequence[str]) -> str:
    """A digest of the names, sizes and times of files.

    Raises:
        DataError: a file cannot be looked at.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in files:
        try:
            status = (root / name).stat()
        except OSError as error:
            raise DataError(f"{root / name} cannot be read ({error.strerror}).") from error
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def kept_images(name: str, fingerprint: str, preprocessing: ImagePreprocessing) -> CachedImages | None:
    """The images of a data set from the cache, with their labels. None if they are not there.

    Args:
        name: as for :func:`cached_images`.
        fingerprint: as for :func:`cached_images`.
        preprocessing: as for :func:`cached_images`.
    """
    return _load(_place(name, preprocessing) / fingerprint, None, _shape(preprocessing))


def cached_images(
    name: str,
    fingerprint: str,
    items: Items[Item],
    pixels: Callable[[Item], NDArray[np.uint8]],
    preprocessing: ImagePreprocessing,
    *,
    labels: Sequence[str] = (),
    source: Path | None = None,
    progress: bool | None = None,
) -> CachedImages:
    """The images of a list, from the cache. They are read and written to the cache if they are not there.

    Args:
        name: what the images are of, such as their folder. A copy of older files of the same name is removed.
        fingerprint: another fingerprint means other images.
        items: the images, as ``pixels`` takes them.
        pixels: reads an image: uint8 ``[height, width, channels]``. A ``DataError`` means that it is broken.
        preprocessing: the size and channels of the images. It also belongs to what the copy is known by.
        labels: the class of each image, for the copy to keep.
        source: the folder or file that the images come from. The copy keeps its name, so that it can be found when the
            source is gone. None means that ``name`` is its path.
        progress: whether to show a progress bar. None shows it only on a terminal.

    Raises:
        DataError: the cache cannot be written.
    """
    place, shape = _place(name, preprocessing), _shape(preprocessing)
    folder = place / fingerprint
    if (found := _load(folder, len(items), shape)) is not None:
        return found
    about: dict[str, Any] = {"name": name, "source": str(source or name), "shape": shape}
    if labels:
        classes = sorted(set(labels))
        number = {label: i for i, label in enumerate(classes)}
        about |= {"classes": classes, "labels": [number[label] for label in labels]}
    try:
        place.mkdir(parents=True, exist_ok=True)
        with locked(place):
            if (found := _load(folder, len(items), shape)) is not None:
                return found  # another process has made it meanwhile
            for left in place.glob(".*.part"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            _build(folder, items, pixels, about, progress)
            for old in place.iterdir():
                if old.is_dir() and old != folder:
                    shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        size = len(items) * int(np.prod(shape)) / 1e6
        raise DataError(
            f"the cache of the images, {size:.0f} MB in {place}, cannot be written ({error.strerror or error}). Free "
            "space ('innerloop cache list' shows what it holds), or set XDG_CACHE_HOME to another folder."
        ) from error
    found = _load(folder, len(items), shape)
    if found is None:
        raise DataError(f"the cache {folder} was removed while it was made. Run again.")
    return found


def _place(name: str, preprocessing: ImagePreprocessing) -> Path:
    """The folder of the copies of one name and one way of preparing images."""
    kept = {**describe(preprocessing)["fields"], "mean": None, "std": None, "invert": None}  # these come later
    key = hashlib.blake2b(json.dumps([_FORMAT, name, kept], sort_keys=True).encode(), digest_size=12).hexdigest()
    return user_cache() / "images" / key


def _shape(preprocessing: ImagePreprocessing) -> tuple[int, ...]:
    return (preprocessing.channels, *preprocessing.size)


def _load(folder: Path, expected: int | None, shape: tuple[int, ...]) -> CachedImages | None:
    """The copy in this folder, or None if there is none that is whole. None expects any number of images."""
    try:
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        broken = {int(place): str(reason) for place, reason in index["broken"].items()}
        count = index["count"] if expected is None else expected
        whole = index["format"] == _FORMAT and index["count"] == count and tuple(index["shape"]) == shape
        labels = tuple(index["classes"][at] for at in index.get("labels", []))
        whole = whole and len(labels) in ((0, count) if expected is not None else (count,))
        size = (count - len(broken)) * int(np.prod(shape))
        if not whole or (folder / _PIXELS).stat().st_size != size:
            _log.warning("the cache %s is not whole: making it again", folder)
            return None
        # Mode "c" lets torch have memory that may be written to. Nothing is ever written to the file.
        kept = (count - len(broken), *shape)
        mapped = np.memmap(folder / _PIXELS, dtype=np.uint8, mode="c", shape=kept) if size else np.empty(kept, np.uint8)
        pixels = torch.from_numpy(mapped)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        _log.warning("the cache %s is not sound (%s): making it again", folder, error)
        return None
    rows = np.arange(count)
    gone = np.isin(rows, list(broken))
    return CachedImages(pixels, np.where(gone, -1, rows - np.cumsum(gone)), broken, folder, labels)


def _build(
    folder: Path,
    items: Items[Item],
    pixels: Callable[[Item], NDArray[np.uint8]],
    about: Mapping[str, Any],
    progress: bool | None,
) -> None:
    """Read all images and write the copy. ``about`` is kept in its index."""
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    part.mkdir()
    try:
        broken: dict[int, str] = {}
        with (
            (part / _PIXELS).open("wb") as file,
            tqdm(
                total=len(items),
                desc=f"reading {Path(about['name']).name}",
                unit=" images",
                disable=None if progress is None else not progress,
            ) as bar,
        ):
            for place, read in enumerate(_in_threads(items, pixels)):
                if isinstance(read, DataError):
                    broken[place] = str(read)
                else:
                    file.write(np.ascontiguousarray(read.transpose(2, 0, 1)).data)
                bar.update()
            file.flush()
            os.fsync(file.fileno())
        index = {"format": _FORMAT, **about, "count": len(items), "broken": broken}
        with (part / INDEX_FILE).open("w", encoding="utf-8") as file_of_index:
            json.dump(index, file_of_index)
            file_of_index.flush()
            os.fsync(file_of_index.fileno())
        if folder.exists():  # a copy that is not whole
            shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _in_threads(
    items: Items[Item], pixels: Callable[[Item], NDArray[np.uint8]]
) -> Iterator[NDArray[np.uint8] | DataError]:
    """Read images in threads, and give them in order. A few at a time are in memory."""

    def read(item: Item) -> NDArray[np.uint8] | DataError:
        try:
            return pixels(item)
        except DataError as error:
            return error

    workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        rest = iter(items)
        waiting: list[Any] = [pool.submit(read, item) for item in islice(rest, _AHEAD)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(read, item) for item in islice(rest, 1)]
        finally:
            for future in waiting:
                future.cancel()


class NotFreeError(OSError):
    """Another process holds the lock of a folder."""


@contextlib.contextmanager
def locked(place: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder. The operating system releases it if the process is killed.

    Args:
        place: the folder.
        wait: wait for another process that holds it.

    Raises:
        NotFreeError: another process holds it, and ``wait`` is not set.
    """
    if fcntl is None:
        yield  # type: ignore[unreachable,unused-ignore]
        return
    with (place / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise NotFreeError(f"{place} is in use") from None
            _log.warning("another process is reading the same images: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:  # a file system without locks
            _log.info("no lock in %s (%s)", place, error)
        yield
