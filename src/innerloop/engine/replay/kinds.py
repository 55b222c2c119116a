"""The key of a kind of calls. Calls with equal keys can share one recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from innerloop.engine.estimate import Estimate
from innerloop.engine.replay.trust import of_package
from innerloop.inner.moment import ATOMS

__all__ = ["key_of", "key_of_value"]


def key_of(estimate: Estimate) -> tuple[Hashable, list[Any]]:
    """The key of an estimate, and the objects whose ``id`` is part of it. Keep these alive as long as the key is used.

    Parts of this library are compared by their fields. All other objects are compared by identity.
    """
    kept: list[Any] = []
    method, loss_fn = estimate.method, estimate.problem.loss_fn
    return (key_of_value(method, kept), key_of_value(loss_fn, kept), estimate.form), kept


def key_of_value(value: Any, kept: list[Any]) -> Hashable:
    """The key of one value. The objects whose ``id`` is part of it are added to the list.

    Example:
        >>> import innerloop as il
        >>> key_of_value(il.maml(0.1), []) == key_of_value(il.maml(0.1), [])
        True
        >>> key_of_value([], []) == key_of_value([], [[]])
        False
    """
    kind = type(value)
    if kind in ATOMS:
        return (kind, repr(value))
    if kind is tuple:
        return (kind, *(key_of_value(item, kept) for item in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Tensor) and of_package(kind.__module__):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return (kind, *(key_of_value(field, kept) for field in fields))
    kept.append(value)
    return id(value)
