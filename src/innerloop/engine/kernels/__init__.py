"""Layers of many tasks at once, each task with weights of its own, at the speed of matrix products.

``kernels.c`` and the files that it includes hold the arithmetic, ``library.py`` builds and calls it, and
``intercept.py`` puts it in the place of what a module's layers call.
"""

from innerloop.engine.kernels.geometry import Geometry
from innerloop.engine.kernels.intercept import taskwise
from innerloop.engine.kernels.layout import pack, packable
from innerloop.engine.kernels.library import STEPS, KernelError, Place, missing, step_runner, watching

__all__ = [
    "STEPS",
    "Geometry",
    "KernelError",
    "Place",
    "missing",
    "pack",
    "packable",
    "step_runner",
    "taskwise",
    "watching",
]
