"""Every private or undocumented name of PyTorch that this package uses, and trials of what they do.

No other file may use such a name. A test checks that. The names serve only speed. They are grouped by purpose into
:data:`PARTS`. If a release of PyTorch lacks a name, or if the name does something else there, its part is missing.
:func:`missing` gives the reason. The engine then takes the slower way that the part's entry names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

_absent: dict[str, str] = {}

try:
    from torch._C import _functorch
    from torch._functorch import pyfunctorch

    transforms = _functorch.get_interpreter_stack
    by_vmap = _functorch.TransformType.Vmap
    is_mapped, mapped_level, mapped_axis = (
        _functorch.is_batchedtensor,
        _functorch.maybe_get_level,
        _functorch.maybe_get_bdim,
    )
    beneath, mapped_again = _functorch.get_unwrapped, _functorch._add_batch_dim
    without_transforms = pyfunctorch.temporarily_clear_interpreter_stack
except (ImportError, AttributeError) as error:  # pragma: no cover
    _absent["vmap"] = str(error)

try:
    current_pass = torch._C._current_graph_task_id
    pass_reaches = torch._C._will_engine_execute_node
except AttributeError as error:  # pragma: no cover
    _absent["passes"] = str(error)

try:
    from torch.utils import _python_dispatch

    _Mode: Any = _python_dispatch.TorchDispatchMode
    dispatch_modes = _python_dispatch._get_current_dispatch_mode_stack
except (ImportError, AttributeError) as error:  # pragma: no cover
    _absent["modes"] = _absent["recording"] = str(error)
    _Mode = object

try:
    from torch.fx.experimental import proxy_tensor

    trace, _tracer = proxy_tensor.make_fx, proxy_tensor.get_proxy_mode
except (ImportError, AttributeError) as error:  # pragma: no cover
    _absent["tracing"] = str(error)

try:
    from torch.multiprocessing import reductions

    StorageRef = reductions.StorageWeakRef
except (ImportError, AttributeError) as error:  # pragma: no cover
    _absent["recording"] = str(error)

try:
    _function_modes, _operation_modes = torch._C._len_torch_function_stack, torch._C._len_torch_dispatch_stack
except AttributeError as error:  # pragma: no cover
    _absent["threads"] = str(error)

__all__ = ["PARTS", "has", "missing"]

NO_PASS = -1
"""The result of :func:`current_pass` outside a backward pass."""

taken_away: set[str] = set()
"""Parts that tests make the engine do without."""


def has(part: str) -> bool:
    """Whether a part exists and works.

    Args:
        part: a key of :data:`PARTS`.
    """
    return part not in taken_away and missing(part) is None


def missing(part: str) -> str | None:
    """Why a part is missing in this release of PyTorch; None if it is not."""
    return _findings()[part]


@functools.cache
def _findings() -> dict[str, str | None]:
    """For each part, the reason why it is missing, or None.

    The trials run in a new thread, without the caller's modes.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: {part: _finding(part) for part in PARTS}).result()


def _finding(part: str) -> str | None:
    if part in _absent:
        return _absent[part]
    try:
        PARTS[part]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class Mode(_Mode):  # type: ignore[misc]
    """A mode of the dispatcher. While it is entered, every operation of this thread passes it."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise PyTorch imports its compiler, which takes seconds, only to exclude this class


def uses(tensor: Tensor) -> int:
    """The number of references to the tensor beneath Python's.

    Without this part it is 2, because there may be another.
    """
    return tensor._use_count() if has("uses") else 2  # type: ignore[attr-defined]


def traced() -> bool:
    """Whether a graph is being traced. Without this part it is True, because one may be."""
    return not has("tracing") or _tracer() is not None


def bound_to_thread() -> str | None:
    """A context of this thread that no other thread can take over, in words; None if there is none."""
    if not has("threads"):
        return "contexts that this release of PyTorch does not show"
    if _function_modes():
        return "a TorchFunctionMode, such as a default device"
    if _operation_modes():
        return "a TorchDispatchMode"
    if not has("vmap") or transforms():
        return "a transform of torch.func"
    return "hooks of saved tensors" if _saves_by_hooks() else None


def _saves_by_hooks() -> bool:
    """Whether hooks of saved tensors are active in this thread. PyTorch then raises if one tries to disable them."""
    try:
        with torch.autograd.graph.disable_saved_tensors_hooks("there are hooks"):
            return False
    except RuntimeError:
        return True


def storage_id(tensor: Tensor) -> int:
    """A number that identifies a tensor's block of memory, as long as the block exists."""
    return int(tensor.untyped_storage()._cdata)


def operation(overload: Callable[..., Any]) -> Callable[..., Any]:
    """An operation without its Python wrapper, so that a call costs less."""
    found: Callable[..., Any] = getattr(overload, "_op", overload)
    return found


def tensor_arguments(overload: Any) -> list[tuple[int, str]]:
    """The positions and names of the arguments that must be tensors."""
    arguments = enumerate(overload._schema.arguments)
    return [(place, a.name) for place, a in arguments if isinstance(a.type, torch.TensorType)]


def written_arguments(overload: Any) -> list[tuple[int, str]]:
    """The positions and names of the arguments that an operation changes."""
    arguments = enumerate(overload._schema.arguments)
    return [(place, a.name) for place, a in arguments if a.alias_info is not None and a.alias_info.is_write]


_READING = ("_pack_padded_sequence", "_pad_packed_sequence", "_linalg_check_errors")
reading_values = [getattr(torch.ops.aten, name).default for name in _READING if hasattr(torch.ops.aten, name)]
"""Operations whose sizes or errors depend on the values of tensors, although their schema does not say so."""


def only_checks(overload: Any) -> bool:
    """Whether an operation returns nothing and changes nothing. It can only raise an error."""
    return not overload._schema.returns and not written_arguments(overload)


def _try_vmap() -> None:
    def one(x: Tensor) -> Tensor:
        levels = transforms()
        _must(len(levels) == 1 and levels[0].key() == by_vmap, "the stack of transforms")
        _must(is_mapped(x) and mapped_axis(x) == 1, "what vmap keeps in a tensor")
        level, stacked = mapped_level(x), beneath(x)
        with without_transforms():
            _must(not transforms() and not is_mapped(stacked), "leaving vmap")
            stacked = stacked * 2
        return mapped_again(stacked, 1, level) + 1

    given = torch.arange(6.0).view(2, 3)
    _must(torch.equal(torch.func.vmap(one, 1, 1)(given), given * 2 + 1), "going back into vmap")


def _try_passes() -> None:
    seen = []

    class _Probe(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, node: Any) -> Tensor:
            ctx.node = node
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
            seen.append((current_pass(), pass_reaches(ctx.node)))
            return g, None

    with torch.enable_grad():
        leaf = torch.ones((), requires_grad=True)
        source = leaf * 1
        alias = source * 1
        end = _Probe.apply(alias, source.grad_fn)
        torch.autograd.grad(end, alias, retain_graph=True)
        torch.autograd.grad(end, leaf)
    (one, ends_there), (two, goes_on) = seen
    _must(current_pass() == NO_PASS and NO_PASS not in (one, two) and one != two, "the number of a backward pass")
    _must(goes_on and not ends_there, "what a backward pass reaches")


def _try_modes() -> None:
    class _Probe(Mode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list[Any] = []
    with _Probe() as probe:
        top = dispatch_modes()[-1]
        torch.ones(2).add_(1)
    _must(top is probe and torch.ops.aten.add_.Tensor in seen, "modes of the dispatcher")


def _try_uses() -> None:
    with torch.enable_grad():
        tensor, weight = torch.ones(2), torch.ones(2, requires_grad=True)
        alone: int = tensor._use_count()  # type: ignore[attr-defined]
        product = tensor * weight  # which keeps the tensor for the derivative
        held: int = tensor._use_count()  # type: ignore[attr-defined]
    _must(alone == 1 and held == 2 and product.requires_grad, "the count of a tensor's uses")


def _try_tracing() -> None:
    _must(_tracer() is None, "whether a graph is traced")


def _try_threads() -> None:
    def none(x: Any) -> Any:
        return x

    _must(not _function_modes() and not _operation_modes(), "the modes of a new thread")
    _must(not _saves_by_hooks(), "the hooks of saved tensors of a new thread")
    with torch.autograd.graph.saved_tensors_hooks(none, none):
        _must(_saves_by_hooks(), "hooks of saved tensors")
    with torch.device("cpu"):
        _must(_function_modes() == 1, "a default device")


def _try_recording() -> None:
    PARTS["modes"]()
    one, other = torch.ones(4), torch.ones(4)
    _must(storage_id(one) == storage_id(one[1:]) != storage_id(other), "the identity of a block of memory")
    ref = StorageRef(one.untyped_storage())
    before = ref.expired()
    del one
    _must(ref.expired() and not before, "the end of a block of memory")
    add = torch.ops.aten.add_.Tensor
    _must(tensor_arguments(add) == [(0, "self"), (1, "other")], "the arguments of an operation")
    _must(written_arguments(add) == [(0, "self")], "what an operation changes")
    _must(bool((operation(add)(other, 1) == 2).all()), "an operation without the Python around it")


def _must(true: bool, what: str) -> None:
    if not true:
        raise RuntimeError(f"{what} is not what it was in the releases of PyTorch that this one was written for")


PARTS: dict[str, Callable[[], None]] = {
    "vmap": _try_vmap,  # the stacked tensors behind mapped ones; else no kernels and no products, but PyTorch's own
    "passes": _try_passes,  # one sum over all uses of a layer's weights; else the products are PyTorch's own
    "modes": _try_modes,  # outputs that are written when they are looked at; else they are written at once
    "uses": _try_uses,  # outputs that nobody looks at are not written; else they are
    "tracing": _try_tracing,  # graphs for torch.compile; else nothing is compiled and there are no kernels
    "threads": _try_threads,  # what a thread has entered; else all chunks run in the caller's thread
    "recording": _try_recording,  # recordings; else every meta-gradient is computed as the first one
}
"""The parts. Each has a trial that raises if the part does not work."""
