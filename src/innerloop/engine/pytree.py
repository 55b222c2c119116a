"""Nested dicts, lists and tuples as a flat list of leaves, and back.

PyTorch has the same in a private module, whose structures cannot be hashed in some of its releases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["TreeSpec", "tree_flatten", "tree_leaves", "tree_unflatten"]


@dataclass(frozen=True)
class TreeSpec:
    """How a nested value was put together. It can be compared and hashed.

    Attributes:
        kind: the type of the container; None of a leaf.
        keys: the keys of a dict, in their order.
        children: the structures of what the container holds.
    """

    kind: type | None = None
    keys: tuple[Any, ...] = ()
    children: tuple[TreeSpec, ...] = ()


LEAF = TreeSpec()


def tree_flatten(nested: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of nested dicts, lists and tuples, named tuples among them, and how they were put together.

    Everything else is a leaf, None too.

    Example:
        >>> leaves, spec = tree_flatten({"a": 1, "b": (2, [3])})
        >>> leaves
        [1, 2, 3]
        >>> tree_unflatten(leaves, spec)
        {'a': 1, 'b': (2, [3])}
    """
    leaves: list[Any] = []
    return leaves, _noted(nested, leaves)


def tree_leaves(nested: Any) -> list[Any]:
    """The leaves alone."""
    return tree_flatten(nested)[0]


def tree_unflatten(leaves: Sequence[Any], spec: TreeSpec) -> Any:
    """The nested value with these leaves.

    Raises:
        ValueError: there are more or fewer leaves than the structure has.
    """
    rest = iter(leaves)
    try:
        result = _built(spec, rest)
    except StopIteration:
        raise ValueError(f"the structure has more leaves than the {len(leaves)} given") from None
    if left := len(list(rest)):
        raise ValueError(f"{len(leaves)} leaves were given, {left} more than the structure has")
    return result


def _noted(nested: Any, leaves: list[Any]) -> TreeSpec:
    kind = type(nested)
    if kind is dict:
        return TreeSpec(kind, tuple(nested), tuple([_noted(item, leaves) for item in nested.values()]))
    if kind in (list, tuple) or _is_named_tuple(kind):
        return TreeSpec(kind, (), tuple([_noted(item, leaves) for item in nested]))
    leaves.append(nested)
    return LEAF


def _built(spec: TreeSpec, leaves: Iterator[Any]) -> Any:
    if spec.kind is None:
        return next(leaves)
    items = [_built(child, leaves) for child in spec.children]
    if spec.kind is dict:
        return dict(zip(spec.keys, items, strict=True))
    return spec.kind(*items) if _is_named_tuple(spec.kind) else spec.kind(items)


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")
