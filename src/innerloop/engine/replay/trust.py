"""Trusted code, which depends only on its arguments: PyTorch's, this package's, and some of Python's own functions.

All other code is looked into (:mod:`innerloop.engine.replay.walk`) or refused.
"""

from __future__ import annotations

import builtins
import collections
import functools
import itertools
import math
import operator
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "CONTAINERS",
    "SAFE_ATTRIBUTES",
    "called_safely",
    "of_package",
    "of_torch",
    "safe_class",
    "safe_function",
    "safe_module_class",
]

CONTAINERS = (list, dict, collections.OrderedDict, set, collections.deque)
"""Types of containers whose items can be looked into."""

_FUNCTIONS = (
    *("abs", "all", "any", "callable", "divmod", "isinstance", "issubclass", "iter", "len", "max", "min", "next"),
    *("pow", "repr", "round", "sorted", "sum", "format", "chr", "ord"),
)
_CLASSES = (
    *("bool", "bytes", "complex", "dict", "enumerate", "filter", "float", "int", "list", "map", "object", "property"),
    *("range", "reversed", "slice", "str", "super", "tuple", "zip", "classmethod", "staticmethod"),
)
_PURE = {getattr(builtins, name) for name in _FUNCTIONS}
_PURE |= {f for module in (math, itertools) for f in vars(module).values() if callable(f)}
_PURE |= {functools.reduce, *(getattr(operator, name) for name in ("add", "mul", "sub", "truediv", "matmul", "neg"))}
_PLAIN_CLASSES = {getattr(builtins, name) for name in _CLASSES} | {collections.OrderedDict, functools.partial}
_PLAIN_CLASSES |= {f for f in vars(itertools).values() if isinstance(f, type)}

_VALUES = (list, dict, tuple, str, int, float, complex, bool, bytes, frozenset, range, slice, torch.Size)
SAFE_ATTRIBUTES: frozenset[str] = frozenset(
    {
        *(name for kind in (*_VALUES, torch.dtype, torch.device, torch.finfo, torch.iinfo) for name in dir(kind)),
        *(name for name in dir(Tensor) if not name.startswith("_")),
        *("values", "indices", "eigenvalues", "eigenvectors", "U", "S", "Vh", "Q", "R", "solution", "inverse", "info"),
        *("L", "LU", "P", "pivots", "logabsdet", "sign", "residuals", "rank", "singular_values", "hist", "bin_edges"),
    }
    - set(dir(object))
)
"""Attributes of numbers, strings, containers and tensors. While a computation is recorded, reads of tensors are watched
(:mod:`innerloop.engine.replay.reads`)."""

SAFE_DUNDERS = {"__name__", "__class__", "__len__", "__call__", "__init__", "__post_init__", "__qualname__"}
"""Names with double underscores that code may use."""

_NOT_OF_TORCH = tuple(
    f"torch.{name}"
    for name in (
        *("utils.data", "utils.checkpoint", "utils.cpp_extension", "utils.dlpack", "hub", "serialization", "random"),
        *("distributed", "cuda", "multiprocessing", "profiler", "jit", "ops", "library", "testing", "package", "onnx"),
        *("_tensor_str", "storage", "_dynamo", "_inductor", "compiler", "classes", "mps", "xpu", "nn.utils.rnn"),
        *(
            "distributions",
            "quasirandom",
            "export",
            "fx",
            "monitor",
            "futures",
            "__config__",
            "backends",
            "utils.hooks",
        ),
    )
)
"""Parts of PyTorch that are not trusted: they read files, random numbers or other state."""

_STATE = {
    getattr(torch, name)
    for name in (
        *("load", "save", "from_numpy", "frombuffer", "from_file", "from_dlpack", "get_rng_state", "set_rng_state"),
        *("initial_seed", "seed", "manual_seed", "get_num_threads", "set_num_threads", "set_default_dtype"),
        *("get_num_interop_threads", "set_grad_enabled", "compile", "ctc_loss", "_pack_padded_sequence"),
    )
    if hasattr(torch, name)
} | {torch.nn.functional.ctc_loss}
_STATE.discard(torch.set_grad_enabled)


def of_torch(name: str | None) -> bool:
    """Whether this is the name of a module of PyTorch whose functions depend only on their arguments."""
    named = name is not None and (name == "torch" or name.startswith("torch."))
    return named and not str(name).startswith(_NOT_OF_TORCH)


def of_package(name: str | None) -> bool:
    """Whether this is the name of a module of this library."""
    return name is not None and name.startswith("innerloop.")


def its_module(namespace: dict[str, Any]) -> str | None:
    """The name of the module with this namespace; None if another module, or none, is imported under that name."""
    name = namespace.get("__name__")
    return name if isinstance(name, str) and vars(sys.modules.get(name, object())) is namespace else None


def trusted_code(function: FunctionType) -> bool:
    """Whether a function's code is PyTorch's or this library's. Its closure may still hold other objects."""
    name = its_module(function.__globals__)
    return of_torch(name) or of_package(name)


def safe_function(function: Any) -> bool:
    """Whether a function that is not written in Python depends only on its arguments."""
    try:
        if function in _STATE:
            return False
        if function in _PURE:
            return True
    except TypeError:
        return False
    owner = getattr(function, "__self__", None)
    if isinstance(owner, ModuleType):
        return of_torch(owner.__name__)
    if isinstance(function, BuiltinFunctionType) and owner is not None and type(owner).__name__ != "PyCapsule":
        kind = owner if isinstance(owner, type) else type(owner)
        if kind in (*_VALUES, *CONTAINERS, Tensor, nn.Parameter):
            return True
        return kind.__module__.split(".")[0] == "torch" and not isinstance(owner, torch.Generator)
    return callable(function) and of_torch(getattr(function, "__module__", None))


called_safely = safe_function
"""Whether the user's code may call a function of C."""


def safe_class(kind: type) -> bool:
    """Whether a class and its instances depend only on their arguments."""
    if kind in _PLAIN_CLASSES or (kind.__module__ == "builtins" and issubclass(kind, BaseException)):
        return True
    return (of_torch(kind.__module__) and kind is not torch.Generator) or of_package(kind.__module__)


def safe_module_class(kind: type) -> bool:
    """Whether the class of a layer is PyTorch's or this library's own. Classes that a tool made or changed are not."""
    known = kind.__module__.startswith(("torch.nn.modules.", "innerloop.nets."))
    return known and getattr(sys.modules.get(kind.__module__), kind.__name__, None) is kind
