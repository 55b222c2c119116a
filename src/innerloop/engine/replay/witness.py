"""``Witness``: notes each Python function that a computation runs, and each C function that the user's code calls."""

from __future__ import annotations

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


class Witness:
    """Inside this context, the code that runs in this thread is noted.

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

    def __enter__(self) -> Witness:
        if sys.getprofile() is not None:
            raise RefusedError("a profiler is at work")
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if code in self.trusted or code in self.codes:
                return
            if _trusted(frame):
                self.trusted[code] = frame.f_globals
            elif not _left_to_its_caller(frame):
                self.codes.add(code)
        elif event == "c_call":
            self._call(frame, argument)

    def _call(self, frame: FrameType, function: Any) -> None:
        if self.refused is not None:
            return
        name = getattr(function, "__name__", repr(function))
        if name in _READS and not of_package(frame.f_globals.get("__name__")):
            self.refused = f"{_where(frame)} calls {name}, which reads values of a tensor"
        elif frame.f_code in self.codes and not called_safely(function):
            self.refused = f"{_where(frame)} calls {name}, which is not known to depend on its arguments alone"


def _trusted(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return of_torch(name) or of_package(name) or str(name).startswith("namedtuple_")


def _left_to_its_caller(frame: FrameType) -> bool:
    """Whether trusted code calls this code, and it belongs to Python's library, to NumPy, or to the rest of PyTorch."""
    caller: FrameType | None = frame
    while caller is not None and _standard(caller):
        caller = caller.f_back
    return caller is not frame and caller is not None and _trusted(caller)


def _standard(frame: FrameType) -> bool:
    if _trusted(frame):
        return False
    file, name = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
    return (
        name.startswith(("torch.", "numpy."))
        or file.startswith("<frozen ")
        or (file.startswith(_STANDARD) and not file.startswith(_INSTALLED))
    )


def _where(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename.rpartition('/')[2]}, line {frame.f_lineno})"
