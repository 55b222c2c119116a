"""Kernels: layers of many tasks at once, at the speed of matrix products. Each task has its own weights.

``csrc/kernels.c`` and the files that it includes hold the arithmetic. ``library.py`` compiles and calls them.
``intercept.py`` puts them in place of the functions that a module's layers call.
"""

from innerloop.engine.kernels.geometry import Geometry
from innerloop.engine.kernels.intercept import taskwise
from innerloop.engine.kernels.layout import pack, packable
from innerloop.engine.kernels.library import (
    PARTS,
    STEPS,
    Destination,
    KernelError,
    state_bytes,
    step_runner,
    watching,
    why_no_kernels,
)

__all__ = [
    "PARTS",
    "STEPS",
    "Destination",
    "Geometry",
    "KernelError",
    "pack",
    "packable",
    "state_bytes",
    "step_runner",
    "taskwise",
    "watching",
    "why_no_kernels",
]
