"""Algebra on named tensors: the parameters of a model as an ordinary ``dict[str, Tensor]``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = [
    "METHOD_PREFIX",
    "Params",
    "detached",
    "expand_tasks",
    "leaf",
    "leaves",
    "map_params",
    "scale",
    "sum_tasks",
]

METHOD_PREFIX = "method."
"""Prefix, among the meta-parameters, of what the method learns beside the model's initialisation."""

Params = dict[str, Tensor]
"""Tensors by name. Within the inner loop each has a leading task axis ``[T, ...]``."""


def map_params(fn: Callable[..., Tensor], first: Mapping[str, Tensor], *rest: Mapping[str, Tensor]) -> Params:
    """Apply ``fn`` to the tensors of the same name.

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
    """The same values as new leaves of a graph, to be differentiated with respect to."""
    return map_params(leaf, a)


def leaf(a: Tensor) -> Tensor:
    """The same values as a new leaf of a graph, to be differentiated with respect to if they can be."""
    return a.detach().requires_grad_(a.is_floating_point())


def expand_tasks(a: Mapping[str, Tensor], tasks: int) -> Params:
    """One copy for each task, without copying memory: ``[...]`` becomes ``[tasks, ...]``."""
    return map_params(lambda t: _Shared.apply(t, tasks), a)


class _Shared(Function):
    """One tensor for all tasks; the derivative is a sum over these."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, tasks: int) -> Tensor:
        ctx.source = t
        return t.expand(tasks, *t.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return sum_tasks(g), None


def read_again(a: Mapping[str, Tensor]) -> Params:
    """The same tensors, each as a node of its own in the graph.

    So that :func:`shared_source` can tell whether a backward pass ends at it, or goes on to what it is made of. Nobody
    may ask, in one pass, for the gradients of both.
    """
    return map_params(lambda t: t.view_as(t) if t.requires_grad else t, a)


def shared_source(t: Tensor) -> tuple[Any, Tensor] | None:
    """Of what :func:`read_again` gave for one of :func:`expand_tasks`: the latter's node, and the tensor expanded."""
    if t.grad_fn is None or len(t.grad_fn.next_functions) != 1:
        return None
    kind: Any = _Shared
    node: Any = t.grad_fn.next_functions[0][0]
    same = isinstance(node, kind._backward_cls) and t.shape[1:] == node.source.shape and not t.stride(0)
    return (node, node.source) if same else None


def sum_tasks(t: Tensor) -> Tensor:
    """The sum over the leading axis, ``[T, ...]`` to ``[...]``.

    PyTorch's takes up to sixty times as long where the other axes do not lie in their order, as kernels' weights do.

    Example:
        >>> sum_tasks(torch.ones(3, 2))
        tensor([3., 3.])
    """
    order, inverse = _memory_order(t[0])
    return t.permute(0, *(i + 1 for i in order)).sum(0).permute(inverse)


def _memory_order(t: Tensor) -> tuple[list[int], list[int]]:
    """The axes of a tensor from the slowest to the fastest in memory, and the inverse of that permutation."""
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
    """Apply ``fn`` to the corresponding tensors of nested dicts and tuples; None stays None.

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
