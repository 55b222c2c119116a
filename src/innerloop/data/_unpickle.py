"""Pickle files of arrays, read without running the code that a pickle file may hold.

A pickle file is a program that can import and call anything. So a file from a stranger can do anything. The reader
here gives such a program nothing to import. It knows the names that NumPy's arrays of numbers are written with, puts
stand-ins in their place, and refuses every other name. Even NumPy is not called before all numbers are checked.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from innerloop.data.errors import DataError

__all__ = ["load_arrays"]


def load_arrays(source: Path | IO[bytes], name: str = "") -> Any:
    r"""The value in a pickle file, if it is made of NumPy arrays, numbers, text, bytes and plain containers alone.

    The text of files that Python 2 wrote is taken as Latin-1. Keys of dictionaries that are bytes become text.

    Args:
        source: the path, or a file that is open.
        name: the name of an open file, for messages.

    Raises:
        DataError: the file cannot be read, is damaged, or asks for anything else.

    Example:
        >>> from io import BytesIO
        >>> load_arrays(BytesIO(b"\x80\x03}C\x06labelsK\x02s."), "file")
        {'labels': 2}
        >>> load_arrays(BytesIO(b"cos\nsystem\n(S'echo'\ntR."), "file")
        Traceback (most recent call last):
            ...
        innerloop.data.errors.DataError: file asks for os.system, which no file of arrays needs, so it is not read. ...
    """
    name = name or str(source)
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                return _finished(_reader(file, name).load())
        return _finished(_reader(source, name).load())
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise DataError(f"{name} does not fit into memory. Use folders of images instead.") from error
    except Exception as error:  # a damaged file may lead to any error
        raise DataError(f"{name} is damaged ({type(error).__name__}: {error}). Get it again.") from error


class _StandIn:
    """What a file gets for a name that it asks for."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any] | None) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        if self._make is None:
            raise ValueError("something is called that is no function")
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function is changed")


@dataclass
class _Type:
    """The type of an array's numbers. Its byte order comes later."""

    code: str
    order: str = "="

    def __setstate__(self, state: Any) -> None:
        if state[2] is not None or state[3] is not None:
            raise ValueError("an array holds records")
        self.order = "=" if _text(state[1]) == "|" else _text(state[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]


@dataclass
class _Array:
    """An array, whose numbers come later."""

    value: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        shape, kind, fortran, data = state[-4:]
        self.value = _array(data, kind, shape, fortran=bool(fortran))


def _array(data: Any, kind: Any, shape: Any, *, fortran: bool) -> np.ndarray[Any, Any]:
    if not isinstance(kind, _Type):
        raise ValueError(f"an array is of the type {kind!r}")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


def _type(code: Any, *_: Any) -> _Type:
    if re.fullmatch(r"[biuf]\d{1,2}", _text(code)) is None:
        raise ValueError(f"an array holds {_text(code)!r}, and not numbers")
    return _Type(_text(code))


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (), fortran=False)[()]


def _encoded(text: str, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes are encoded as {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,  # only ever an argument of the next
    "numpy.core.multiarray._reconstruct": lambda kind, shape, code: _Array(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": lambda data, kind, shape, order: _Array(
        _array(data, kind, shape, fortran=_text(order) == "F")
    ),
    "numpy.dtype": _type,
    "_codecs.encode": _encoded,  # Python 3 writes bytes so for readers of Python 2
    "__builtin__.bytes": lambda: b"",  # and empty ones so
    "collections.OrderedDict": dict,
}
"""Everything that a file may ask for, and what is done instead of calling it."""


def _reader(file: IO[bytes], name: str) -> pickle.Unpickler:
    class Reader(pickle.Unpickler):
        def find_class(self, module: str, wanted: str) -> _StandIn:
            place = f"{module}.{wanted}".replace("numpy._core.", "numpy.core.")
            if place not in _KNOWN:
                raise DataError(
                    f"{name} asks for {module}.{wanted}, which no file of arrays needs, so it is not read. It may be "
                    "meant to run a program: get it from its authors again."
                )
            return _StandIn(_KNOWN[place])

    return Reader(file, encoding="latin1")


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _finished(value: Any) -> Any:
    """The same value with its arrays in place, and with text for keys that are bytes."""
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array has no numbers")
        return value.value
    if isinstance(value, list):
        return [_finished(each) for each in value]
    if isinstance(value, tuple):
        return tuple(_finished(each) for each in value)
    if isinstance(value, dict):
        return {(k.decode("utf-8", "replace") if isinstance(k, bytes) else k): _finished(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str | bytes | np.number | np.bool_):
        return value
    raise ValueError(f"it holds a {type(value).__name__.strip('_')}")
