"""Compiles the kernels once, with the machine's own C compiler, and keeps them in the user's cache folder.

They are an optimisation. Without a compiler, or with ``INNERLOOP_KERNELS=off`` in the environment, everything runs on
PyTorch alone.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from innerloop.engine.kernels.geometry import Geometry
from innerloop.engine.kernels.shapes import choose_shape
from innerloop.engine.messages import first_line
from innerloop.folders import switched_off, user_cache

__all__ = [
    "PARTS",
    "STEPS",
    "Destination",
    "Geometry",
    "KernelError",
    "call",
    "kernels",
    "place",
    "state_bytes",
    "step_runner",
    "watching",
    "why_no_kernels",
]

SOURCE = Path(__file__).resolve().parent / "csrc" / "kernels.c"
SWITCH = "INNERLOOP_KERNELS"
COMMON = ["-O3", "-std=gnu11", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC"]
TUNED: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
"""Options that ask for this machine's instructions. The first that the compiler accepts is used."""

SUFFIX = {torch.float32: "float", torch.float64: "double"}


class KernelError(RuntimeError):
    """A kernel did not get the memory that it needs."""


@dataclass(frozen=True)
class Destination:
    """The place that a kernel writes to. It does not hold the tensor.

    Attributes:
        address: the address of the first element.
        ref: the watcher's reference to the tensor; None if nobody watches.
    """

    address: int
    ref: Any = None


class Watcher(Protocol):
    """Is told of every kernel call in its thread. PyTorch's dispatcher does not see these."""

    def kernel(
        self, name: str, function: Callable[..., Any], arguments: Sequence[Any], results: Sequence[bool]
    ) -> None:
        """Called after a kernel. ``results`` says which of the arguments it writes to."""

    def place(self, tensor: Tensor) -> Destination:
        """The place that a kernel will write to later."""


class _Watched(threading.local):
    watcher: Watcher | None = None


_watched = _Watched()


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """A context in which the watcher is told of this thread's kernels."""
    before, _watched.watcher = _watched.watcher, watcher
    try:
        yield
    finally:
        _watched.watcher = before


def place(tensor: Tensor) -> Destination:
    """The place of a tensor that a kernel will write to. It holds no reference, so other references can be counted."""
    return Destination(tensor.data_ptr()) if _watched.watcher is None else _watched.watcher.place(tensor)


def call(name: str, dtype: torch.dtype, *arguments: Geometry | Tensor | Destination | int | float | None) -> None:
    """Call a kernel. Tensors are passed by address, and must be contiguous in the kernel's layout.

    Raises:
        KernelError: there was not enough memory.
    """
    function = _functions[name, dtype]
    failed = function(
        *[a.data_ptr() if isinstance(a, Tensor) else a.address if isinstance(a, Destination) else a for a in arguments]
    )
    if failed:
        raise KernelError(f"{name}: not enough memory; use a smaller meta-batch or a smaller number for execution=")
    if _watched.watcher is not None:
        _watched.watcher.kernel(name, function, arguments, [kind is _RESULT for kind in _SIGNATURES[name][1]])


class _RESULT(ctypes.c_void_p):
    """The address of a tensor that a kernel writes."""


_SIZES, _POINTER, _NUMBER = ctypes.POINTER(Geometry), ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[type[ctypes.c_int] | None, list[Any]]] = {
    "convolve": (ctypes.c_int, [_SIZES] + [_POINTER] * 2 + [_RESULT]),
    "weight_gradient": (ctypes.c_int, [_SIZES] + [_POINTER] * 2 + [_RESULT]),
    "input_gradient": (ctypes.c_int, [_SIZES] + [_POINTER] * 2 + [_RESULT]),
    "normalise": (None, [_NUMBER] * 4 + [ctypes.c_int, ctypes.c_double] + [_POINTER] * 3 + [_RESULT] * 3),
    "normalise_back": (None, [_NUMBER] * 4 + [ctypes.c_int] + [_POINTER] * 6 + [_RESULT] * 3),
    "normalise_twice": (None, [_NUMBER] * 4 + [ctypes.c_int] + [_POINTER] * 9 + [_RESULT] * 3),
    "normalise_pool": (None, [_SIZES, _NUMBER, ctypes.c_double] + [_POINTER] * 3 + [_RESULT] * 5),
    "normalise_pool_back": (None, [_SIZES, _NUMBER] + [_POINTER] * 8 + [_RESULT] * 3),
    "normalise_pool_twice": (None, [_SIZES, _NUMBER] + [_POINTER] * 11 + [_RESULT] * 3),
    "pool": (None, [_SIZES] + [_POINTER] + [_RESULT] * 2),
    "pool_linear": (None, [_SIZES, ctypes.c_int, _POINTER] + [_RESULT] * 2),
}
STEPS = tuple(_SIGNATURES)
"""The names of the kernels, in the order of their numbers in ``csrc/steps.h``."""

PARTS = (
    *("convolve", "weight_gradient", "input_gradient"),
    *("moments", "apply", "back_sums", "back", "twice_sums", "twice"),
    *("pooled_moments", "pooled_apply", "pooled_back_sums", "pooled_back", "pooled_twice_sums", "pooled_twice"),
    *("add", "multiply"),
)
"""The names of the parts of sweeps, in the order of their numbers in ``csrc/sweeps.h``."""

_functions: dict[tuple[str, torch.dtype], Callable[..., int | None]] = {}


def why_no_kernels() -> str | None:
    """The reason why there are no kernels; None if there are."""
    return None if kernels() is not None else _reason()


@functools.cache
def kernels() -> ctypes.CDLL | None:
    """The library, compiled if necessary.

    None if it is not available: the first such call warns and gives the reason.
    """
    if switched_off(SWITCH):
        return None
    try:
        path = _built()
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        _failure.append(first_line(error))
        warnings.warn(
            f"convolutions run on PyTorch alone, which is slower on CPU: {_failure[0]} "
            f"(a C compiler, gcc or clang, is all it takes; {SWITCH}=off silences this)",
            stacklevel=2,
        )
        return None
    for name, (result, arguments) in _SIGNATURES.items():
        for dtype, suffix in SUFFIX.items():
            function = getattr(library, f"{name}_{suffix}")
            function.restype, function.argtypes = result, arguments
            _functions[name, dtype] = function
    library.run_steps.restype, library.run_steps.argtypes = _NUMBER, [_POINTER, _NUMBER, _POINTER, _NUMBER]
    choose_shape(library, path.with_suffix(".shape"))
    return library


def step_runner() -> Callable[..., int] | None:
    """The C function ``run_steps``; None if there are no kernels."""
    library = kernels()
    return None if library is None else library.run_steps


def state_bytes(channels: int, dtype: torch.dtype) -> int:
    """The bytes for the sums of a batch norm in a sweep."""
    library = kernels()
    assert library is not None
    function = getattr(library, f"state_bytes_{SUFFIX[dtype]}")
    function.restype, function.argtypes = _NUMBER, [_NUMBER]
    return int(function(channels))


_failure: list[str] = []


def _reason() -> str:
    return _failure[0] if _failure else f"{SWITCH} is {os.environ.get(SWITCH)!r}"


def _built() -> Path:
    """The path of the library. Its name is a hash of everything that its contents depend on."""
    compiler = _compiler()
    key = hashlib.sha256()
    sources = (path.read_bytes() for path in sorted(SOURCE.parent.glob("*.[ch]")))
    for part in (*sources, compiler.encode(), " ".join(COMMON).encode(), _processor()):
        key.update(part)
    folder = user_cache() / "kernels"
    path = folder / f"{key.hexdigest()[:24]}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        target = Path(scratch) / path.name
        for tuned in TUNED:
            command = [compiler, *COMMON, *tuned, "-o", str(target), str(SOURCE), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode == 0:
                break
        else:
            raise OSError(f"{compiler} could not compile {SOURCE.name}: {first_line(done.stderr)}")
        target.replace(path)  # atomic, so that two processes can do this at once
    return path


def _compiler() -> str:
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        if found := shutil.which(name):
            return found
    raise OSError(f"no C compiler found (looked for {', '.join(names)})")


def _processor() -> bytes:
    """A description of the processor. Machines with different processors may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return repr(platform.uname()).encode()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model", b"flags", b"Features", b"CPU"))}))
