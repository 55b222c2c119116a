"""Omniglot as published: two archives, or the folders inside them. They are read safely and checked to be complete."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from innerloop.data._splits import split_names
from innerloop.data.errors import DataError
from innerloop.extras import extra

__all__ = ["PARTS", "Contents", "Source", "omniglot_layout"]

PARTS = ("images_background", "images_evaluation")
_SUBFOLDERS = ("", "omniglot", "omniglot-py")  # the last is where torchvision puts it
_SIDE = 105  # pixels of an original
_MOST_BYTES = 1 << 20  # an original has 200 to 400 bytes, so a file near this size is not Omniglot


@dataclass(frozen=True)
class Contents:
    """A complete data set: the characters of each part, and the number of drawings of each character."""

    parts: Mapping[str, Sequence[str]]
    drawings: int = 20

    @property
    def names(self) -> list[str]:
        """Every character, ``ALPHABET/characterNN``, in sorted order."""
        return sorted(name for names in self.parts.values() for name in names)


@lru_cache(maxsize=1)
def omniglot_layout() -> Contents:
    """Return the 964 background and 659 evaluation characters."""
    return Contents(dict(zip(PARTS, (split_names("lake", "train"), split_names("lake", "test")), strict=True)))


@dataclass(frozen=True)
class Source:
    """A folder that holds both parts, each as ``PART.zip`` or else as a folder ``PART``."""

    folder: Path

    @classmethod
    def find(cls, root: Path) -> Source | None:
        """Find the source with both parts in ``root`` or one of its usual sub-folders."""
        sources = (cls(root / name) for name in _SUBFOLDERS)
        return next((source for source in sources if all(source.path(part) for part in PARTS)), None)

    def path(self, part: str) -> Path | None:
        """Return the archive, or else the folder of a part."""
        archive, folder = self.folder / f"{part}.zip", self.folder / part
        return archive if archive.is_file() else folder if folder.is_dir() else None

    def fingerprint(self) -> str:
        """A digest of names, sizes and times. It changes with an archive, or with the alphabets of a folder."""
        paths = [path for part in PARTS if (path := self.path(part))]
        stats = [(path.name, path.is_file() and path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]

    def characters(self, part: str) -> dict[str, list[str]]:
        """List the PNG files that are there, for each character of a part."""
        opened = _open(self.path(part) or self.folder / part)
        try:
            return _characters(part, opened.names())
        finally:
            opened.close()

    def read(self, layout: Contents, size: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield each character's name and drawings ``[drawings, size, size]``, ink 1, in order of name.

        Raises:
            DataError: a part is absent, damaged or incomplete.
        """
        parts = [_open(self.path(part) or self.folder / part) for part in PARTS]
        members = [_characters(part, opened.names()) for part, opened in zip(PARTS, parts, strict=True)]
        _check(members, layout)
        where = {
            name: (opened, files) for opened, found in zip(parts, members, strict=True) for name, files in found.items()
        }
        try:
            for name in layout.names:
                opened, files = where[name]
                yield (
                    name,
                    np.stack([_decode(opened.read(file), size, f"{opened.path}: {file}") for file in files]),
                )
        finally:
            for opened in parts:
                opened.close()


@dataclass(frozen=True)
class _Folder:
    path: Path

    def names(self) -> list[str]:
        return [file.relative_to(self.path.parent).as_posix() for file in self.path.glob("*/*/*")]

    def read(self, name: str) -> bytes:
        try:
            return (self.path.parent / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path.parent / name} cannot be read ({error}).") from error

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class _Archive:
    path: Path
    zip: zipfile.ZipFile

    def names(self) -> list[str]:
        return self.zip.namelist()

    def read(self, name: str) -> bytes:
        if self.zip.getinfo(name).file_size > _MOST_BYTES:
            raise DataError(
                f"{self.path}: {name} is too large for a drawing, over {_MOST_BYTES} bytes. {_remedy(self.path)}"
            )
        try:
            return self.zip.read(name)
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            RuntimeError,
            NotImplementedError,
            EOFError,
        ) as error:
            raise DataError(f"{self.path} is damaged at {name} ({error}). {_remedy(self.path)}") from error

    def close(self) -> None:
        self.zip.close()


def _remedy(path: Path) -> str:
    return f"Delete {path} and run again with download=True (--download), or put a good copy there."


def _open(path: Path) -> _Folder | _Archive:
    if path.is_dir():
        return _Folder(path)
    try:
        return _Archive(path, zipfile.ZipFile(path))
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a readable zip archive ({error}). {_remedy(path)}") from error


def _characters(part: str, names: Sequence[str]) -> dict[str, list[str]]:
    """Group the sorted PNG files by character. Other files, and files that macOS adds, are ignored."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise DataError(
                f"{part} holds the unsafe path {name!r}: this is not Omniglot. Replace it with a good copy."
            )
        if path.suffix.lower() == ".png" and len(path.parts) == 4 and path.parts[0] == part and path.name[0] != ".":
            found.setdefault("/".join(path.parts[1:3]), []).append(name)
    return found


def _check(members: Sequence[Mapping[str, Sequence[str]]], layout: Contents) -> None:
    faults = []
    for found, (part, expected) in zip(members, layout.parts.items(), strict=True):
        for name in sorted({*found, *expected}):
            if name not in found:
                faults.append(f"{part}/{name} is missing")
            elif name not in expected:
                faults.append(f"{part}/{name} is not one of Omniglot's")
            elif len(found[name]) != layout.drawings:
                faults.append(f"{part}/{name} has {len(found[name])} drawings, expected {layout.drawings}")
    if faults:
        more = f" and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise DataError(
            f"Omniglot is not complete: {'; '.join(faults[:3])}{more}. Delete the damaged part and run again "
            "with download=True (--download), or put a good copy there."
        )


def _decode(data: bytes, size: int, name: str) -> NDArray[np.uint8]:
    """One drawing ``[size, size]``, ink 1, shrunk by nearest neighbour.

    MAML's and Reptile's code resize the 1-bit originals with Pillow. For 1-bit images Pillow always uses nearest
    neighbour.
    """
    with extra("images"):
        from PIL import Image
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (_SIDE, _SIDE) or image.mode != "1":
                raise DataError(
                    f"{name} is a {image.width}x{image.height} image of mode {image.mode!r}: expected an "
                    f"original {_SIDE}x{_SIDE} 1-bit drawing. Put an unmodified copy of Omniglot there."
                )
            paper = np.asarray(image.resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8)
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{name} is not a readable PNG image ({error}). Replace it with a good copy.") from error
    return 1 - paper
