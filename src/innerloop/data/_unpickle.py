"""Pickle files of arrays, read without running the code that a pickle file may hold.

A pickle file is a program. The ordinary reader runs it, so that a file from a stranger can do anything. The reader here
knows only what arrays and plain containers are made of, and refuses every other name in a file.
"""

from __future__ import annotations

import collections
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from innerloop.data.errors import DataError

__all__ = ["load_arrays", "text_of_bytes"]


def load_arrays(source: Path | IO[bytes], name: str = "") -> Any:
    """The value in a pickle file, if it is made of NumPy arrays, numbers, text and plain containers alone.

    The text of files that Python 2 wrote comes as bytes. Keys of dictionaries are text in any case.

    Args:
        source: the path, or a file that is open.
        name: the name of an open file, for messages.

    Raises:
        DataError: the file cannot be read, is damaged, or asks for anything else.

    Example:
        >>> import io
        >>> load_arrays(io.BytesIO(pickle.dumps({b"labels": [1, 2]})), "file")
        {'labels': [1, 2]}
        >>> load_arrays(io.BytesIO(pickle.dumps(print)), "file")
        Traceback (most recent call last):
            ...
        innerloop.data.errors.DataError: file asks for builtins.print, which no file of arrays needs, so it is not \
read. It may be meant to run a program: get it from its authors again.
    """
    name = name or str(source)
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                value = _reader(file, name).load()
        else:
            value = _reader(source, name).load()
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise DataError(f"{name} does not fit into memory. Use folders of images instead.") from error
    except Exception as error:  # a damaged pickle file raises errors of any kind
        raise DataError(f"{name} is damaged ({type(error).__name__}: {error}). Get it again.") from error
    return _with_text_keys(value)


def text_of_bytes(value: Any) -> str:
    """Text that may have come as bytes, or a number, as text.

    Example:
        >>> text_of_bytes(b"maple_tree"), text_of_bytes("bus"), text_of_bytes(3)
        ('maple_tree', 'bus', '3')
    """
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _reader(file: IO[bytes], name: str) -> pickle.Unpickler:
    known = _known()

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, wanted: str) -> Any:
            place = module.replace("numpy._core", "numpy.core")
            try:
                return known[f"{place}.{wanted}"]
            except KeyError:
                raise DataError(
                    f"{name} asks for {module}.{wanted}, which no file of arrays needs, so it is not read. It may be "
                    "meant to run a program: get it from its authors again."
                ) from None

        def persistent_load(self, pid: Any) -> Any:
            raise DataError(f"{name} refers to data outside itself, so it is not read.")

    return Reader(file, encoding="bytes")


def _known() -> dict[str, Any]:
    """Everything that a file may ask for. Functions are made anew for each file, so that no file can change them."""
    from numpy import ndarray

    def dtype_of(code: Any, *flags: Any) -> np.dtype[Any]:
        found = np.dtype(code.decode("ascii") if isinstance(code, bytes) else code, *flags)
        if found.hasobject:
            raise ValueError("an array holds Python objects")
        return found

    def reconstruct(kind: Any, shape: Any, code: Any) -> Any:
        if kind is not ndarray:
            raise ValueError("an array is of an unknown class")
        return np.ndarray.__new__(ndarray, shape, code)

    def scalar(kind: np.dtype[Any], value: Any) -> Any:
        if kind.kind not in "biuf":
            raise ValueError(f"a number is of the kind {kind}")
        return np.frombuffer(value.encode("latin1") if isinstance(value, str) else value, kind)[0]

    def frombuffer(buffer: Any, kind: np.dtype[Any], shape: Any, order: Any) -> Any:
        return np.frombuffer(buffer, kind).reshape(shape, order="F" if order in ("F", b"F") else "C")

    def encode(text: str, encoding: Any) -> bytes:  # Python 3 writes bytes so for readers of Python 2
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"bytes are encoded as {encoding!r}")
        return text.encode("latin1")

    def no_bytes() -> bytes:  # and empty ones so
        return b""

    known: dict[str, Callable[..., Any]] = {
        "__builtin__.bytes": no_bytes,
        "numpy.ndarray": ndarray,
        "numpy.dtype": dtype_of,
        "numpy.core.multiarray._reconstruct": reconstruct,
        "numpy.core.multiarray.scalar": scalar,
        "numpy.core.numeric._frombuffer": frombuffer,
        "_codecs.encode": encode,
        "collections.OrderedDict": collections.OrderedDict,
    }
    return known


def _with_text_keys(value: Any) -> Any:
    """The same value with text for keys that are bytes, in this dictionary and those within it."""
    if isinstance(value, dict):
        return {(text_of_bytes(k) if isinstance(k, bytes) else k): _with_text_keys(v) for k, v in value.items()}
    return value
