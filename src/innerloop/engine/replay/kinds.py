"""The key of a kind of calls. Calls with equal keys can share one recording."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

from torch import Tensor

from innerloop.engine.estimate import Estimate
from innerloop.engine.replay.trust import of_package
from innerloop.inner.moment import ATOMS

__all__ = ["key_of"]


def key_of(estimate: Estimate) -> tuple[Hashable, list[Any]]:
    """The key of an estimate, and the objects whose ``id`` is part of it. Keep these alive as long as the key is used.

    Parts of this library are compared by their fields. All other objects are compared by identity.
    """
    kept: list[Any] = []
    method, loss_fn = estimate.method, estimate.problem.loss_fn
    return (_key(method, kept), _key(loss_fn, kept), estimate.form), kept


def _key(value: Any, kept: list[Any]) -> Hashable:
    kind = type(value)
    if kind in ATOMS:
        return (kind, repr(value))
    if kind is tuple:
        return (kind, *(_key(item, kept) for item in value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Tensor) and of_package(kind.__module__):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return (kind, *(_key(field, kept) for field in fields))
    kept.append(value)
    return id(value)
