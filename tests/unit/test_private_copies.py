"""A module is called as a private copy: every owner of a tensor is met, and nothing of the user's changes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, trainable, vector_episode
from hostile import oracle
from hostile.harness import tasks_of
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.model import StatelessModel
from innerloop.inner.moment import Moment

WAYS = pytest.mark.parametrize("execution", ["serial", "batched", 2])


class Twice(nn.Module):
    """One layer under two names, and a third layer with its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b = self.a
        self.c.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))))


class AddsInPlace(nn.Module):
    """Writes to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.layer(x)


class Maps(nn.Module):
    """An ensemble of as many layers as tasks run together, mapped by the module itself."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.body = nn.Linear(4, 5)
        self.heads = nn.Parameter(torch.randn(members, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        return torch.func.vmap(lambda head: F.linear(h, head))(self.heads).mean(0)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "registered twice and tied": Twice,
    "writes to its input": AddsInPlace,
    "a first layer in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "maps as many as there are tasks": lambda: Maps(4),
    "maps two": lambda: Maps(2),
}


@WAYS
@pytest.mark.parametrize("kind", MODULES)
def test_the_plain_loops_agree_and_nothing_changes(kind: str, execution: str) -> None:
    net, episode = MODULES[kind]().double(), vector_episode(4)
    before = [t.clone() for t in vars(episode).values()]
    grads, _ = il.meta_gradient(net, il.maml(0.1, 2), episode, execution=execution)
    for now, then in zip(vars(episode).values(), before, strict=True):
        assert torch.equal(now, then)
    assert_same(grads, oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy, steps=2).grads)


def test_a_parameter_that_is_held_elsewhere_too_is_refused() -> None:
    net = nn.Linear(4, 3)
    net.alias = [net.weight]
    with pytest.raises(ValueError, match="its parameters weight in another attribute or list"):
        StatelessModel(net)


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="weight, bias are complex"):
        StatelessModel(nn.Linear(2, 2, dtype=torch.cfloat))


def test_a_frozen_parameter_that_is_written_to_is_refused() -> None:
    class Moves(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.mean.add_(1)
            return super().forward(x)

    net = Moves(4, 3).double()
    net.mean = nn.Parameter(torch.zeros(()), requires_grad=False)
    with pytest.raises(ValueError, match="writes to mean"):
        il.meta_gradient(net, il.maml(0.1), vector_episode(2), execution="serial")


def test_lists_and_plain_attributes_keep_their_tensors() -> None:
    class Remembers(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.plain.add_(1)
            self.several[0].add_(1)
            return super().forward(x) * self.plain * self.several[0]

    net = Remembers(4, 3)
    net.plain, net.several = torch.ones(()), [torch.ones(())]
    model, x = StatelessModel(net), torch.randn(2, 4)
    first = model(model.initial, x)
    torch.testing.assert_close(model(model.initial, x), first)
    assert float(net.plain) == float(net.several[0]) == 1
    net.plain.fill_(2)  # the values are those of now
    torch.testing.assert_close(model(model.initial, x), first * 1.5)


def test_threads_call_copies_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    model, x = StatelessModel(net), torch.randn(5, 4, dtype=torch.float64)
    wrong: list[int] = []

    def run(number: int) -> None:
        params = {n: p.detach() * (number + 1) for n, p in net.named_parameters()}
        expected = _plain(params, x)
        for _ in range(300):
            if not torch.allclose(model(params, x), expected):
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _plain(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.tanh(x @ params["0.weight"].T + params["0.bias"]) @ params["2.weight"].T + params["2.bias"]


# -- whether a module is as it was ---------------------------------------------------------------------------------


class Holds(nn.Module):
    """Has all kinds of attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.number, self.words, self.many, self.options = 2.0, "a", [1, {"b": 2}], {"c": (3, [4])}
        self.helper = Helper()
        self.register_buffer("seen", torch.zeros(2))


class Helper:
    """Something of the user's."""

    def __init__(self) -> None:
        self.scale = 1.0


CHANGES: dict[str, Callable[[Holds], object]] = {
    "a number": lambda net: setattr(net, "number", 3.0),
    "another type": lambda net: setattr(net, "number", 2),
    "in a list": lambda net: net.many.append(1),
    "deep in a list": lambda net: net.many[1].update(b=3),
    "deep in a dictionary": lambda net: net.options["c"][1].__setitem__(0, 5),
    "of a helper": lambda net: setattr(net.helper, "scale", 2.0),
    "another helper": lambda net: setattr(net, "helper", Helper()),
    "a new attribute": lambda net: setattr(net, "new", 1),
    "no attribute": lambda net: delattr(net, "words"),
    "another mode": lambda net: net.eval(),
    "a frozen parameter": lambda net: net.layer.weight.requires_grad_(False),
    "another parameter": lambda net: setattr(net.layer, "weight", nn.Parameter(torch.zeros(2, 2))),
    "another buffer": lambda net: setattr(net, "seen", torch.ones(2)),
    "assigned values": lambda net: net.load_state_dict(
        {k: v.clone() for k, v in net.state_dict().items()}, assign=True
    ),
    "a hook": lambda net: net.layer.register_forward_hook(print),
    "another layer": lambda net: setattr(net, "layer", nn.Linear(2, 2)),
    "one layer more": lambda net: net.add_module("more", nn.Linear(2, 2)),
    "another class": lambda net: setattr(net.helper, "__class__", type("Other", (Helper,), {})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    net = Holds()
    moment = Moment(net)
    assert moment.unreadable is None
    assert moment.lasts()
    CHANGES[change](net)
    assert not moment.lasts()


def test_the_same_again_and_other_values_of_tensors_are_no_change() -> None:
    net = Holds()
    moment = Moment(net)
    net.number = float("2.0")
    net.seen.add_(1)
    with torch.no_grad():
        net.layer.weight.mul_(2)
    net.load_state_dict(net.state_dict())
    assert moment.lasts()
    assert sorted(moment.tensors) == sorted([*trainable(net), "seen"])


def test_what_cannot_be_looked_into_is_said() -> None:
    net = Holds()
    net.generator = torch.Generator()
    moment = Moment(net)
    assert moment.unreadable == "generator holds a Generator, which cannot be looked into"
    assert not moment.lasts()
