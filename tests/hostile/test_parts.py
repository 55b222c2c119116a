"""Rules, starts, objectives, inner losses and estimators of one's own, with state that changes between calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import innerloop as il
from hostile import oracle
from hostile.harness import LR, Cases, Script, assert_answer, episodes, linear, make_engine, method_of, tasks_of

cases = Cases()


class Descent:
    """Gradient descent whose rate is read anew at each step."""

    def __init__(self, rate: Callable[[], Any]) -> None:
        self.rate = rate

    def init(self, params, learned):
        return {}

    def step(self, params, grads, state):
        return {name: p - self.rate() * grads[name] for name, p in params.items()}, state

    def learned(self, params):
        return {}


RATES: dict[str, Callable[[], tuple[Callable[[], Any], Callable[[float], object]]]] = {}


def rate(make):
    RATES[make.__name__.replace("_", " ")] = make
    return make


@rate
def a_list():
    held = [LR]
    return lambda: held[0], lambda value: held.__setitem__(0, value)


@rate
def a_closure():
    now = LR

    def put(value):
        nonlocal now
        now = value

    return lambda: now, put


@rate
def a_tensor_in_place():
    held = torch.tensor(LR, dtype=torch.float64)
    return lambda: held, lambda value: held.fill_(value)


@rate
def a_tensor_by_data():
    held = torch.tensor(LR, dtype=torch.float64)
    return lambda: held, lambda value: held.data.fill_(value)


@rate
def a_class_attribute():
    class Settings:
        rate = LR

    return lambda: Settings.rate, lambda value: setattr(Settings, "rate", value)


@rate
def a_mutable_dataclass():
    @dataclass
    class Settings:
        rate: float = LR
        more: list[float] = field(default_factory=list)

    settings = Settings()
    return lambda: settings.rate, lambda value: setattr(settings, "rate", value)


@rate
def a_schedule_object():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    return lambda: optimizer.param_groups[0]["lr"], lambda value: optimizer.param_groups[0].update(lr=value)


@rate
def what_a_lock_guards():
    lock, held = threading.Lock(), [LR]

    def read():
        with lock:
            return held[0]

    return read, lambda value: held.__setitem__(0, value)


def changing(
    build: Callable[[Callable[[], Any]], il.Method], make, plain: Callable[[float], dict[str, Any]], **options
):
    def script() -> Script:
        read, put = make()
        now = [LR]

        def change(number: int) -> None:
            now[0] = LR * (number + 2)
            put(now[0])

        method = build(read)
        return Script(
            linear(),
            change=change,
            method=lambda call: method,
            plain=lambda call: plain(now[0]),
            **{"calls": 22} | options,
        )

    return script


def with_rule(read: Callable[[], Any]) -> il.Method:
    return il.Method(il.Adaptation(Descent(read), 1), il.unrolled())


def with_start(read: Callable[[], Any]) -> il.Method:
    def start(adapted, tasks):
        return {name: (p * (1 + read())).expand(len(tasks.support_x), *p.shape) for name, p in adapted.items()}

    adaptation = method_of("maml").adaptation
    return il.Method(replace(adaptation, start=start), il.unrolled())


def with_inner_loss(read: Callable[[], Any]) -> il.Method:
    def inner_loss(model, loss_fn, params, x, y):
        return loss_fn(model(params, x), y) * (1 + read())

    adaptation = method_of("maml").adaptation
    return il.Method(replace(adaptation, inner_loss=inner_loss), il.unrolled())


def with_objective(read: Callable[[], Any]) -> il.Method:
    adaptation = replace(method_of("maml").adaptation, objective=lambda steps: (float(read()), 1 - float(read())))
    return il.Method(adaptation, il.unrolled())


def with_estimator(read: Callable[[], Any]) -> il.Method:
    base = il.unrolled()

    def estimator(*arguments):
        grads, info = base(*arguments)
        return grads.map(lambda grad: grad * (1 + read())), info

    return il.Method(method_of("maml").adaptation, estimator)


def scaled_loss(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, y: F.cross_entropy(outputs, y) * (1 + value)


PARTS = {
    "a rule": (with_rule, lambda value: {"lr": value}),
    "a start": (with_start, lambda value: {"start": lambda name, p: p * (1 + value)}),
    "an inner loss": (with_inner_loss, lambda value: {"inner_loss": scaled_loss(value)}),
    "an objective": (with_objective, lambda value: {"weights": (value, 1 - value)}),
}
for part, (build, plain) in PARTS.items():
    for number, (sentence, make) in enumerate(RATES.items()):
        cases(
            changing(build, make, plain),
            name=f"{part} that reads {sentence}",
            ways=((("auto", 1), ("serial", 1))[number % 2],),
        )


@cases.only(("auto", 1), ("serial", 1))
def another_method_at_each_call() -> Script:
    rates = [0.05, 0.1, 0.2]
    return Script(
        linear(),
        method=lambda call: method_of("maml", rates[call % 3]),
        plain=lambda call: {"lr": rates[call % 3]},
        calls=24,
    )


@cases.only(("auto", 1), ("serial", 1))
def a_method_that_is_replaced_between_calls() -> Script:
    method = method_of("maml")
    steps = [1, 1, 1, 2, 3]
    others = {k: replace(method, adaptation=replace(method.adaptation, steps=k)) for k in (1, 2, 3)}
    return Script(
        linear(),
        method=lambda call: others[steps[call // 5]],
        plain=lambda call: {"steps": steps[call // 5]},
        calls=24,
    )


@cases.only(("auto", 1), ("serial", 1))
def a_rule_that_counts_its_steps() -> Script:
    """Its rate depends on how many steps it ever made, which no plain loop would make otherwise: one task, serially."""
    made = [0]

    def reading() -> float:
        return 0.1 if made[0] < 12 else 0.3

    class Counting(Descent):
        def step(self, params, grads, state):
            made[0] += 1
            return super().step(params, grads, state)

    method = il.Method(il.Adaptation(Counting(reading), 1), il.unrolled())

    def plain(call: int) -> dict[str, Any]:
        return {"lr": 0.1 if call < 12 else 0.3}

    return Script(
        linear(), method=lambda call: method, plain=plain, calls=24, episode=lambda call: episodes(call, tasks=1)
    )


@cases.only(("auto", 1), ("serial", 1))
def a_rule_whose_method_is_patched() -> Script:
    rule, now = Descent(lambda: LR), [LR]

    def change(number: int) -> None:
        now[0] = LR * (number + 2)
        rate_now = now[0]
        rule.rate = lambda: rate_now

    method = il.Method(il.Adaptation(rule, 1), il.unrolled())
    return Script(linear(), change=change, method=lambda call: method, plain=lambda call: {"lr": now[0]}, calls=22)


@cases.all
def test_parts_are_as_they_are_at_each_call(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("execution", ["auto", "serial"])
def test_an_estimator_that_reads_a_list(execution: str) -> None:
    net, held = linear(), [0.5]
    method, engine = with_estimator(lambda: held[0]), make_engine(net, execution=execution)
    for call in range(24):
        if call in (4, 9, 20):
            held[0] *= 2
        right = oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy).grads
        grads, _ = engine.meta_gradient(method, episodes(call))
        assert_answer(grads, {name: grad * (1 + held[0]) for name, grad in right.items()}, call)
