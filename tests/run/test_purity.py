"""What is recorded, what is not, and why: only what is shown to depend on its inputs alone."""

from __future__ import annotations

import functools
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_helpers import image_episode, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.engine.replay import replays

Loss = Callable[[Tensor, Tensor], Tensor]
RANDOM = random.Random(0)
SCALE, WEIGHTS, TABLE, CLASSES = 2.0, [1.0, 2.0], {"power": 2}, torch.ones(3, dtype=torch.float64)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "AFTER", 2)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def explained(
    net: nn.Module, loss: Loss = F.cross_entropy, calls: int = 6, method: il.Method | None = None, **options: Any
) -> str:
    """What the engine says of its recordings after some calls."""
    engine = il.Engine(net, loss, unused="ignore", **options)
    for seed in range(calls):
        episode = vector_episode(2, seed=seed) if next(net.parameters()).ndim == 2 else image_episode(2, seed=seed)
        engine.meta_gradient(method or il.maml(0.1, 2), episode)
    return "; ".join(engine.explain().recordings)


# -- recorded --------------------------------------------------------------------------------------------------------


class Own(nn.Module):
    """Ordinary code of a user's: loops, properties, helpers, containers, words, asserts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8)])
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(8)) for _ in range(2)])
        self.head, self.activation, self.depth = nn.Linear(8, 3), torch.tanh, 2
        self.options = {"slope": 0.1, "sizes": [8, 8]}
        self.register_buffer("shift", torch.ones(8))

    @property
    def slope(self) -> float:
        return self.options["slope"]

    def block(self, x: Tensor, *, gain: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope) * gain + self.shift

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"a batch of vectors, not {tuple(x.shape)}")
        kept = []
        for number, (layer, gain) in enumerate(zip(self.layers, self.gains, strict=True)):
            x = self.activation(layer(x))
            if self.training and number < self.depth:
                x = self.block(x, gain=gain)
            kept.append(x)
        mean = sum(k.mean() for k in kept) / len(kept)
        scale = max(size / math.sqrt(size) for size in self.options["sizes"])
        return self.head(x - mean) * scale


class Scored:
    """A loss with numbers and a tensor of its own."""

    def __init__(self) -> None:
        self.weight, self.power = torch.ones(3, dtype=torch.float64), 2

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight=self.weight) + outputs.pow(self.power).mean()


@dataclass(frozen=True)
class Smoothed:
    """A loss that is a frozen dataclass."""

    smoothing: float = 0.1

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.smoothing)


def with_globals(outputs: Tensor, targets: Tensor) -> Tensor:
    return SCALE * F.cross_entropy(outputs, targets, weight=CLASSES) * WEIGHTS[0] + penalty(outputs)


def total(outputs: Tensor) -> Tensor:
    return outputs.sum()


def penalty(outputs: Tensor) -> Tensor:
    return (outputs ** TABLE["power"]).mean()


RECORDED: dict[str, tuple[Callable[[], nn.Module], Loss]] = {
    "layers of PyTorch": (mlp, F.cross_entropy),
    "the library's conv4": (lambda: il.nets.conv4(5, filters=4).double(), F.cross_entropy),
    "the library's mlp": (lambda: il.nets.mlp(4, 3, (5,)).double(), F.cross_entropy),
    "a module of one's own": (lambda: Own().double(), F.cross_entropy),
    "a lambda": (mlp, lambda outputs, targets: 2 * F.cross_entropy(outputs, targets)),
    "a partial": (mlp, functools.partial(F.cross_entropy, label_smoothing=0.1)),
    "a module as loss": (mlp, nn.CrossEntropyLoss(weight=CLASSES)),
    "a callable object": (mlp, Scored()),
    "its method": (mlp, Scored().__call__),
    "a frozen dataclass": (mlp, Smoothed()),
    "globals and helpers": (mlp, with_globals),
}


@pytest.mark.parametrize("case", RECORDED)
def test_ordinary_code_is_recorded(case: str) -> None:
    make, loss = RECORDED[case]
    said = explained(make(), loss)
    assert "recorded, and used" in said
    assert "not recorded" not in said


# -- not recorded ----------------------------------------------------------------------------------------------------


class Reads(nn.Module):
    """A layer, and a forward pass that is given."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.how = forward
        self.calls, self.seen = 0, []

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def counts(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    return self.layer(x)


def remembers(self: Any, x: Tensor) -> Tensor:
    self.seen.append(1)
    return self.layer(x)


def trims(self: Any, x: Tensor) -> Tensor:
    return self.layer(x * len([row for row in x.tolist() if row[0] > -9]))


def swallows(self: Any, x: Tensor) -> Tensor:
    try:
        k = 1.0 if x.sum().item() > 0 else 2.0
    except Exception:
        k = 3.0
    return self.layer(x) * k


NOT_RECORDED: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "counts": (counts, "assigns the attribute calls"),
    "remembers": (remembers, "changes what it depends on"),
    "tolist": (trims, "tolist"),
    "a swallowed refusal": (swallows, "item"),
    "NumPy": (lambda self, x: self.layer(x * np.float64(2)), "float64"),
    "values by NumPy": (lambda self, x: self.layer(x * float(np.mean(x.detach().numpy()))), "."),
    "random": (lambda self, x: self.layer(x * (1 + (random.random() < 0.0))), "random"),
    "a generator of one's own": (lambda self, x: self.layer(x * RANDOM.random()), "random"),
    "time": (lambda self, x: self.layer(x + 0 * time.time()), "time"),
    "getattr": (lambda self, x: getattr(self, "lay" + "er")(x), "getattr"),
    "its dictionary": (lambda self, x: self.__dict__["_modules"]["layer"](x), "__dict__"),
    "the frame": (lambda self, x: self.layer(x * sys._getframe(0).f_lineno / 9), "_getframe"),
    "the gradient": (lambda self, x: self.layer(x if x.grad is None else -x), "grad"),
    "a version": (lambda self, x: self.layer(x if x._version >= 0 else -x), "_version"),
    "identity": (lambda self, x: self.layer(x * (id(x) > 0)), "id"),
    "words of a tensor": (lambda self, x: self.layer(x * len(f"{x.sum()}") / 9), "__format__"),
    "a split by values": (lambda self, x: torch.cat(x.tensor_split(torch.tensor([1]))) @ self.layer.weight.T, "split"),
    "threads": (lambda self, x: self.layer(x * torch.get_num_threads()), "get_num_threads"),
    "a seed": (lambda self, x: self.layer(x * (torch.initial_seed() != -1)), "initial_seed"),
}


@pytest.mark.parametrize("case", NOT_RECORDED)
def test_what_reads_more_than_its_inputs_is_not_recorded(case: str) -> None:
    forward, reason = NOT_RECORDED[case]
    said = explained(Reads(forward).double(), execution="serial")
    assert "recorded, and used" not in said
    assert reason in said


def test_hooks_are_not_recorded() -> None:
    net = mlp()
    net[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    assert "hooks" in explained(net)


class Doubled(torch.autograd.Function):
    """An operation of the user's."""

    factor = 2.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * Doubled.factor

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * Doubled.factor


def test_functions_of_the_users_own_are_not_recorded() -> None:
    said = explained(mlp(), lambda o, t: F.cross_entropy(Doubled.apply(o), t), execution="serial")
    assert "Doubled" in said


# -- what a recording stands on --------------------------------------------------------------------------------------


class Slope:
    """Something global."""

    value = 1.0


SLOPE = Slope()


def sloped(outputs: Tensor, targets: Tensor) -> Tensor:
    return SLOPE.value * F.cross_entropy(outputs, targets)


def make_loss(factor: float) -> tuple[Loss, Callable[[float], None]]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return factor * F.cross_entropy(outputs, targets)

    def change(value: float) -> None:
        nonlocal factor
        factor = value

    return loss, change


def changes() -> dict[str, tuple[Loss, Callable[[pytest.MonkeyPatch], object]]]:
    closure, change_closure = make_loss(1.0)
    tensor = torch.ones(3, dtype=torch.float64)
    holder, defaults = Scored(), lambda o, t, k=1.0: k * F.cross_entropy(o, t)
    module, partial = nn.CrossEntropyLoss(), functools.partial(F.cross_entropy, label_smoothing=0.1)
    this = sys.modules[__name__]

    def by_tensor(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, weight=tensor)

    return {
        "a global name": (with_globals, lambda patch: patch.setattr(this, "SCALE", 3.0)),
        "an item of a list": (with_globals, lambda patch: WEIGHTS.__setitem__(0, 5.0)),
        "what a helper reads": (with_globals, lambda patch: patch.setitem(TABLE, "power", 4)),
        "the helper": (with_globals, lambda patch: patch.setattr(this, "penalty", lambda o: o.sum())),
        "the helper's code": (
            with_globals,
            lambda patch: patch.setattr(penalty, "__code__", (lambda o: o.sum()).__code__),
        ),
        "a global tensor": (with_globals, lambda patch: patch.setattr(this, "CLASSES", CLASSES * 3)),
        "a tensor's values": (by_tensor, lambda patch: tensor.mul_(torch.arange(1.0, 4.0))),
        "a tensor's data": (by_tensor, lambda patch: setattr(tensor, "data", torch.arange(1.0, 4.0).double())),
        "a class attribute": (sloped, lambda patch: patch.setattr(Slope, "value", 3.0)),
        "an attribute before its class's": (sloped, lambda patch: patch.setattr(SLOPE, "value", 3.0)),
        "what is closed over": (closure, lambda patch: change_closure(3.0)),
        "a default": (defaults, lambda patch: patch.setattr(defaults, "__defaults__", (3.0,))),
        "an attribute": (holder, lambda patch: setattr(holder, "power", 4)),
        "another tensor": (holder, lambda patch: setattr(holder, "weight", torch.arange(1.0, 4.0).double())),
        "a module's attribute": (module, lambda patch: setattr(module, "label_smoothing", 0.2)),
        "a module's buffer": (module, lambda patch: setattr(module, "weight", torch.arange(1.0, 4.0).double())),
        "a partial's keyword": (partial, lambda patch: partial.keywords.update(label_smoothing=0.3)),
        "PyTorch itself": (with_globals, lambda patch: patch.setattr(F, "cross_entropy", lambda o, t, **k: o.sum())),
        "a layer's class": (F.cross_entropy, lambda patch: patch.setattr(nn.Tanh, "forward", lambda self, x: 2 * x)),
        "a method of tensors": (
            lambda o, t: F.cross_entropy(o.mul(2), t),
            lambda patch: patch.setattr(Tensor, "mul", lambda self, k: self + k),
        ),
        "a type": (closure, lambda patch: change_closure(torch.tensor(2.0, dtype=torch.float64))),
    }


@pytest.mark.parametrize("case", changes())
def test_a_change_ends_a_recording_at_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, change = changes()[case]
    net, method = mlp(), il.maml(0.1, 2)
    engine = il.Engine(net, loss, unused="ignore")
    for seed in range(6):
        engine.meta_gradient(method, vector_episode(2, seed=seed))
    assert "recorded, and used" in str(engine.explain())
    change(monkeypatch)
    for seed in range(6, 12):
        grads, _ = engine.meta_gradient(method, vector_episode(2, seed=seed))
        plain = il.Engine(net, loss, unused="ignore", replay="off")
        expected, _ = plain.meta_gradient(method, vector_episode(2, seed=seed))
        for name, grad in expected.items():
            torch.testing.assert_close(grads[name], grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["default type", "autocast", "deterministic"])
def test_other_surroundings_are_another_kind(name: str) -> None:
    engine, episode = il.Engine(mlp()), vector_episode(2)
    for _ in range(4):
        engine.meta_gradient(il.maml(0.1), episode)
    before = len(engine.explain().recordings)
    try:
        if name == "default type":
            torch.set_default_dtype(torch.float64)
        if name == "deterministic":
            torch.use_deterministic_algorithms(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
            engine.meta_gradient(il.maml(0.1), episode)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert len(engine.explain().recordings) == before + 1


def test_one_call_of_many_tasks_does_not_take_one_for_another() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.layer(x) if float(x[0, 0]) > 0 else self.layer(-x) * 2

    net = Reads(forward).double()
    episode = vector_episode(32)
    grads, _ = il.Engine(net, execution="serial").meta_gradient(il.maml(0.1), episode)
    each = [il.meta_gradient(net, il.maml(0.1), episode[i : i + 1], execution="serial")[0] for i in range(32)]
    for name, grad in grads.items():
        torch.testing.assert_close(grad, sum(one[name] for one in each) / 32, rtol=1e-9, atol=1e-12)


# -- what the engine says --------------------------------------------------------------------------------------------


def test_replay_is_a_choice() -> None:
    assert "replay='off'" in explained(mlp(), replay="off")
    assert "recorded, and used" in explained(
        mlp(), lambda o, t: F.cross_entropy(o, t) * (1 + 0 * time.time()), replay="always"
    )
    with pytest.raises(ValueError, match="replay is 'sometimes'; choose one of 'auto', 'off', 'always'"):
        il.Engine(mlp(), replay="sometimes")


def test_the_engine_explains_itself() -> None:
    engine = il.Engine(mlp())
    assert "none yet" in str(engine.explain())
    engine.meta_gradient(il.maml(0.1), vector_episode(2))
    said = str(engine.explain())
    assert "tasks together" in said or "1 task" in said
    assert said.count("\n") == 3
