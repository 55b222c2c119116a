"""``Witness``: notes each Python function that a computation runs, and each C function that the user's code calls."""

from __future__ import annotations

import enum
import gc
import sys
import sysconfig
from types import CodeType, FrameType
from typing import Any

from innerloop.engine.replay.refused import RefusedError
from innerloop.engine.replay.trust import called_safely, of_package, of_torch

__all__ = ["Witness"]

_STANDARD = tuple(sysconfig.get_paths()[part] for part in ("stdlib", "platstdlib"))
_INSTALLED = tuple(sysconfig.get_paths()[part] for part in ("purelib", "platlib"))
_READS = {"tolist", "numpy", "item", "data_ptr", "untyped_storage", "_to_dlpack", "storage"}
"""Functions of C that give a tensor's values or its address. This library's own kernels may use the address."""


class _Kind(enum.Enum):
    """Whose code it is: PyTorch's or this library's; of Python's library, NumPy or the rest of PyTorch; or other."""

    TRUSTED = enum.auto()
    STANDARD = enum.auto()
    OWN = enum.auto()


class Witness:
    """Inside this context, the code that runs in this thread is noted.

    The garbage collector waits meanwhile: what it calls when it happens to run is no part of the computation.

    Attributes:
        codes: the user's code that ran.
        trusted: PyTorch's and this library's code that ran, with its global namespace.
        refused: the first call that is not known to be safe, in words; None if there is none.

    Raises:
        RefusedError: on entry, if a profiler already watches the thread.
    """

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.trusted: dict[CodeType, dict[str, Any]] = {}
        self.refused: str | None = None
        self._noted: dict[int, CodeType] = {}
        self._own: set[int] = set()
        self._kinds: dict[tuple[int, int], tuple[_Kind, CodeType, dict[str, Any]]] = {}
        self._collects = False

    def __enter__(self) -> Witness:
        if sys.getprofile() is not None:
            raise RefusedError("a profiler is at work")
        self._collects = gc.isenabled()
        gc.disable()
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        if self._collects:
            gc.enable()

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if id(code) in self._noted:  # hashing a code takes long
                return
            if self._kind(frame) is _Kind.TRUSTED:
                self._noted[id(code)] = code
                self.trusted[code] = frame.f_globals
            elif not self._left_to_its_caller(frame):
                self._noted[id(code)] = code
                self._own.add(id(code))
                self.codes.add(code)
        elif event == "c_call":
            self._call(frame, argument)

    def _kind(self, frame: FrameType) -> _Kind:
        code, names = frame.f_code, frame.f_globals
        known = self._kinds.get((id(code), id(names)))
        if known is None:  # the code and its names are kept, so that no other object gets their id
            known = self._kinds[id(code), id(names)] = (_kind_of(frame), code, names)
        return known[0]

    def _left_to_its_caller(self, frame: FrameType) -> bool:
        """Whether this code is standard, and trusted code has called it, directly or by other standard code."""
        if self._kind(frame) is not _Kind.STANDARD:
            return False
        caller = frame.f_back
        while caller is not None and self._kind(caller) is _Kind.STANDARD:
            caller = caller.f_back
        return caller is not None and self._kind(caller) is _Kind.TRUSTED

    def _call(self, frame: FrameType, function: Any) -> None:
        if self.refused is not None:
            return
        name = getattr(function, "__name__", None) or repr(function)
        if name in _READS and not of_package(frame.f_globals.get("__name__")):
            self.refused = f"{_where(frame)} calls {name}, which reads values of a tensor"
        elif id(frame.f_code) in self._own and not called_safely(function):
            self.refused = f"{_where(frame)} calls {name}, which is not known to depend on its arguments alone"


def _kind_of(frame: FrameType) -> _Kind:
    file, name = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
    if of_torch(name) or of_package(name) or name.startswith("namedtuple_"):
        return _Kind.TRUSTED
    if (
        name.startswith(("torch.", "numpy."))
        or file.startswith("<frozen ")
        or (file.startswith(_STANDARD) and not file.startswith(_INSTALLED))
    ):
        return _Kind.STANDARD
    return _Kind.OWN


def _where(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename.rpartition('/')[2]}, line {frame.f_lineno})"
