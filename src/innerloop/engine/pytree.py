"""Flatten nested dicts, lists and tuples into a list of leaves, and build them again.

PyTorch has the same in a private module. In some of its releases the structures cannot be hashed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["TreeSpec", "tree_flatten", "tree_leaves", "tree_unflatten"]


@dataclass(frozen=True)
class TreeSpec:
    """The structure of a nested value. It can be compared and hashed.

    Attributes:
        kind: the type of the container; None for a leaf.
        keys: the keys of a dict, in order.
        children: the structures of the container's items.
    """

    kind: type | None = None
    keys: tuple[Any, ...] = ()
    children: tuple[TreeSpec, ...] = ()


LEAF = TreeSpec()


def tree_flatten(nested: Any) -> tuple[list[Any], TreeSpec]:
    """The leaves of nested dicts, lists, tuples and named tuples, and their structure.

    Everything else is a leaf, including None.

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
    """The leaves of a nested value, without their structure."""
    return tree_flatten(nested)[0]


def tree_unflatten(leaves: Sequence[Any], spec: TreeSpec) -> Any:
    """The nested value of this structure with these leaves.

    Raises:
        ValueError: the structure has another number of leaves.
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
