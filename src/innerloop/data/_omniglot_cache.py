"""A compact copy of preprocessed Omniglot: one ``.npz`` file of a few megabytes, with one bit for each pixel."""

from __future__ import annotations

import logging
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from innerloop.data._omniglot_source import Contents, Source
from innerloop.folders import user_cache

__all__ = ["drawings"]

_log = logging.getLogger(__name__)
_FORMAT = 1  # raise it when the contents of the file or the preprocessing change


def drawings(source: Source, layout: Contents, size: int, progress: bool | None = None) -> NDArray[np.uint8]:
    """Return the drawings ``[characters, drawings, size, size]``, ink 1, ordered as ``layout.names``.

    They are read from the cache file in the user's cache folder, or beside the source, where earlier versions wrote it.
    If neither is sound, they are made from the source and saved in the user's cache folder, if it can be written.

    Raises:
        DataError: there is no sound cache, and the source is not sound either.
    """
    name = f"omniglot-{size}-{source.fingerprint()}.npz"
    caches = [user_cache() / "omniglot" / name, source.folder / name]
    names, shape = layout.names, (len(layout.names), layout.drawings, size, size)
    for cache in caches:
        if (bits := _load(cache, names, shape)) is not None:
            return bits
    bits = np.empty(shape, dtype=np.uint8)
    disable = None if progress is None else not progress
    read = tqdm(source.read(layout, size), total=len(names), desc="reading Omniglot", disable=disable)
    for i, (_, character) in enumerate(read):
        bits[i] = character
    _save(caches[0], names, bits)
    return bits


def _load(path: Path, names: Sequence[str], shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """Return the cached drawings. Return None if there is no sound file, and log a damaged one."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if int(stored["format"]) != _FORMAT or stored["names"].tolist() != list(names):
                raise ValueError("it holds something else")
            pixels = shape[-2] * shape[-1]
            return np.unpackbits(stored["bits"], axis=-1, count=pixels).reshape(shape)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        _log.warning("the cache %s is not sound (%s): making it again", path, error)
        return None


def _save(path: Path, names: Sequence[str], bits: NDArray[np.uint8]) -> None:
    """Write the whole cache file, or nothing if the folder cannot be written."""
    packed = np.packbits(bits.reshape(*bits.shape[:2], -1), axis=-1)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".omniglot-", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez_compressed(file, format=np.int64(_FORMAT), names=np.array(names), bits=packed)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _log.info("no cache at %s (%s)", path, error)
