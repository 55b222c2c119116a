"""What calls must have in common for one recording to serve them all."""

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
    """The key, and what must be kept alive as long as it is used, since its identity is part of the key.

    The parts of a method that are this library's count by what they are made of, all else by its identity.
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
