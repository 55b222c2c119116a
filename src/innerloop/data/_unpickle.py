"""Pickle files of arrays, read without running the code that a pickle file may hold.

A pickle file is a program for a machine with a stack, and the ordinary machine can import and call anything. So a file
from a stranger can do anything. The machine here is another one. It knows numbers, text, bytes, lists, tuples and
dictionaries, and what NumPy's arrays of numbers are made of. It imports nothing, and refuses everything else.
"""

from __future__ import annotations

import pickletools
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
                return _finished(_Machine(name).run(file))
        return _finished(_Machine(name).run(source))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error.strerror or error}).") from error
    except MemoryError as error:
        raise DataError(f"{name} does not fit into memory. Use folders of images instead.") from error
    except Exception as error:  # a damaged file may lead to any error
        raise DataError(f"{name} is damaged ({type(error).__name__}: {error}). Get it again.") from error


@dataclass(frozen=True)
class _Name:
    """Something that a file asks for by its name. It is one of :data:`_KNOWN`."""

    name: str


@dataclass
class _Type:
    """The type of an array's numbers. Its byte order comes later."""

    code: str
    order: str = "="

    def build(self, state: Any) -> None:
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

    def build(self, state: Any) -> None:
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


class _Machine:
    """Runs the program of a pickle file. A method stands for each instruction that it knows, and :meth:`push` for many.

    Args:
        name: the name of the file, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        """The value that the program leaves."""
        for instruction, argument, _ in pickletools.genops(file):
            if instruction.name == "STOP":
                break
            step = _STEPS.get(instruction.name)
            if step is None:
                raise DataError(
                    f"{self.name} holds more than arrays and plain containers ({instruction.name}), so it is not read."
                )
            step(self, argument)
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def skip(self, _: Any) -> None:
        """Do nothing."""

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """Take what is above the last mark."""
        place = self.marks.pop()
        found = self.stack[place:]
        del self.stack[place:]
        return found

    def put(self, place: Any) -> None:
        self.memo[int(place)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, place: Any) -> None:
        self.push(self.memo[int(place)])

    def tuple_of(self, count: int) -> None:
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def tuple_of_marked(self, _: Any) -> None:
        self.push(tuple(self.marked()))

    def list_of_marked(self, _: Any) -> None:
        self.push(self.marked())

    def append(self, _: Any) -> None:
        self.extend([self.stack.pop()])

    def append_marked(self, _: Any) -> None:
        self.extend(self.marked())

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError(f"a {type(self.stack[-1]).__name__} gets items")
        self.stack[-1].extend(values)

    def dict_of_marked(self, _: Any) -> None:
        pairs = self.marked()
        self.push({})
        self.update(pairs)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def set_marked(self, _: Any) -> None:
        self.update(self.marked())

    def update(self, pairs: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError(f"a {type(self.stack[-1]).__name__} gets keys")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    def global_name(self, argument: Any) -> None:
        self.push(_named(*str(argument).split(" ", 1), file=self.name))

    def stacked_name(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push(_named(module, name, file=self.name))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        make = _KNOWN[function.name] if isinstance(function, _Name) else None
        if make is None:
            raise ValueError(f"{function!r} is called")
        self.push(make(*arguments))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Array | _Type):
            raise ValueError(f"a {type(self.stack[-1]).__name__} has a state")
        self.stack[-1].build(state)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.push),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES"), _Machine.push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.skip),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "MARK": _Machine.mark,
    "MEMOIZE": _Machine.memoize,
    "TUPLE": _Machine.tuple_of_marked,
    "LIST": _Machine.list_of_marked,
    "DICT": _Machine.dict_of_marked,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_marked,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_marked,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
"""What each instruction does. A file with any other instruction is refused."""


def _named(module: Any, name: Any, *, file: str) -> _Name:
    place = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
    if place not in _KNOWN:
        raise DataError(
            f"{file} asks for {module}.{name}, which no file of arrays needs, so it is not read. It may be meant to "
            "run a program: get it from its authors again."
        )
    return _Name(place)


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
    if isinstance(value, _Name | _Type):
        raise ValueError(f"{value!r} is a value of its own")
    return value
