"""What a module, a loss or a method uses of one thread alone."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import innerloop as il
from innerloop.engine.bound import BoundParts, bound_to_caller, watched

own = threading.local()
own.scale = 2.0


def by_global(x: float) -> float:
    return float(x * own.scale)


class Holder:
    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __call__(self, x: float) -> float:
        return x


class Scaled(nn.Module):
    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.parts = [{"scale": (thing,)}]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


def closing_over(thing: Any) -> Any:
    return lambda x: (x, thing)


@pytest.mark.parametrize(
    "root",
    [
        by_global,
        closing_over(own),
        functools.partial(print, own),
        Holder(own),
        Holder(own).__call__,
        Scaled(own),
        lambda x, own=own: x,
        lambda x: by_global(x) + 1,
    ],
)
def test_a_threading_local_is_found_wherever_it_is_held(root: Any) -> None:
    assert bound_to_caller(root) == "a threading.local"


@pytest.mark.parametrize(
    "root", [closing_over(3), Holder([1, 2]), Scaled("a"), nn.functional.cross_entropy, il.maml(0.1), torch.optim.SGD]
)
def test_nothing_is_found_where_there_is_nothing(root: Any) -> None:
    assert bound_to_caller(root) is None


def test_a_generator_belongs_to_one_thread() -> None:
    assert "generator" in str(bound_to_caller(Holder(x for x in range(3))))


def test_functions_that_did_not_run_are_left_out() -> None:
    def used(x: float) -> float:
        return x

    loss = Holder([used, by_global])
    assert watched(lambda: used(1.0), loss) == (1.0, None)
    assert watched(lambda: by_global(1.0), loss) == (2.0, "a threading.local")


def test_too_many_objects_count_as_something_found() -> None:
    assert "too many" in str(bound_to_caller([object() for _ in range(30)], most=20))


@dataclass(frozen=True)
class Part:
    things: list[Any] = field(default_factory=list)


def test_equal_methods_are_looked_into_once_and_others_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []

    def look(*parts: Any, most: int) -> str | None:
        looked.append(parts)
        return bound_to_caller(*parts, most=most)

    monkeypatch.setattr("innerloop.engine.bound.bound_to_caller", look)
    bound, found = BoundParts(), []
    own_part = Part([own])
    for parts in ((il.maml(0.1),), (il.maml(0.1),), (il.maml(0.2),), (il.maml(0.2), own_part), (il.maml(0.2),)):
        bound.look(*parts)
        found.append(bound.latest)
    assert len(looked) == 4
    assert found == [None, None, None, "a threading.local", None]
