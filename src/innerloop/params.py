"""Algebra on named tensors. The parameters of a model are an ordinary ``dict[str, Tensor]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = [
    "Params",
    "SharedByTasks",
    "aliased",
    "detached",
    "expand_tasks",
    "leaf",
    "leaves",
    "map_params",
    "scale",
    "sum_tasks",
]

Params = dict[str, Tensor]
"""Tensors by name. In the inner loop each has a leading task axis ``[T, ...]``."""


def map_params(fn: Callable[..., Tensor], first: Mapping[str, Tensor], *rest: Mapping[str, Tensor]) -> Params:
    """Apply ``fn`` to tensors of the same name.

    Raises:
        ValueError: the mappings do not hold the same names.

    Example:
        >>> map_params(torch.add, {"w": torch.ones(2)}, {"w": torch.ones(2)})
        {'w': tensor([2., 2.])}
    """
    for other in rest:
        if other.keys() != first.keys():
            odd = sorted(first.keys() ^ other.keys())
            raise ValueError(f"the mappings must hold the same names; only one of them has {odd}")
    return {name: fn(tensor, *(other[name] for other in rest)) for name, tensor in first.items()}


def scale(a: Mapping[str, Tensor], factor: float) -> Params:
    """``factor * a``."""
    return map_params(lambda t: t * factor, a)


def detached(a: Mapping[str, Tensor]) -> Params:
    """The same values without their graph."""
    return map_params(Tensor.detach, a)


def leaves(a: Mapping[str, Tensor]) -> Params:
    """The same values as new leaves of a graph. One can differentiate with respect to them."""
    return map_params(leaf, a)


def leaf(a: Tensor) -> Tensor:
    """The same values as a new leaf of a graph. A leaf of floating-point type requires a gradient."""
    return a.detach().requires_grad_(a.is_floating_point())


def expand_tasks(a: Mapping[str, Tensor], tasks: int) -> Params:
    """Give every task the same tensors: ``[...]`` becomes ``[tasks, ...]``. No memory is copied."""
    return map_params(lambda t: SharedByTasks.apply(t, tasks), a)


class SharedByTasks(Function):
    """A tensor that all tasks share. Its gradient is the sum over the tasks."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, tasks: int) -> Tensor:
        """Expand ``t`` from ``[...]`` to ``[tasks, ...]``, in the same memory."""
        ctx.source = t
        return t.expand(tasks, *t.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        """The sum over the tasks, by :func:`sum_tasks`."""
        return sum_tasks(g), None


def aliased(a: Mapping[str, Tensor]) -> Params:
    """New views of the same tensors, in the same memory.

    A gradient with respect to a view stops there. It does not go back to how the tensor was computed.
    """
    return map_params(lambda t: t.view_as(t) if t.requires_grad else t, a)


def sum_tasks(t: Tensor) -> Tensor:
    """Sum over the leading axis: ``[T, ...]`` to ``[...]``.

    PyTorch's own sum takes up to sixty times as long if the other axes are in another order in memory. That is so for
    the weights of the package's kernels.

    Example:
        >>> sum_tasks(torch.ones(3, 2))
        tensor([3., 3.])
    """
    order, inverse = _memory_order(t[0])
    return t.permute(0, *(i + 1 for i in order)).sum(0).permute(inverse)


def _memory_order(t: Tensor) -> tuple[list[int], list[int]]:
    """The axes of a tensor from the largest stride to the smallest, and the inverse of that permutation."""
    order = sorted(range(t.ndim), key=t.stride, reverse=True)
    return order, sorted(range(t.ndim), key=order.__getitem__)


def total(trees: Iterable[Mapping[str, Tensor]]) -> Params:
    """The sum of several mappings."""
    first, *rest = trees
    result = dict(first)
    for other in rest:
        result = map_params(torch.add, result, other)
    return result


def map_nested(fn: Callable[..., Tensor], first: Any, *rest: Any) -> Any:
    """Apply ``fn`` to the corresponding tensors of nested dicts and tuples. None stays None.

    Example:
        >>> map_nested(torch.neg, ({"m": torch.ones(1)}, None))
        ({'m': tensor([-1.])}, None)
    """
    if isinstance(first, dict):
        return {key: map_nested(fn, item, *(other[key] for other in rest)) for key, item in first.items()}
    if isinstance(first, tuple):
        return tuple(map_nested(fn, *items) for items in zip(first, *rest, strict=True))
    return None if first is None else fn(first, *rest)


def flattened(nested: Any) -> list[Tensor]:
    """The tensors of nested dicts and tuples, in the order of :func:`map_nested`.

    Example:
        >>> flattened(({"m": torch.ones(1)}, None))
        [tensor([1.])]
    """
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_nested(note, nested)
    return found
