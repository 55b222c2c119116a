"""The inner rules step for step against torch.optim."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_helpers import rng
from torch import Tensor, nn

import innerloop as il

CASES = {
    "sgd": (lambda p: torch.optim.SGD(p, 0.1), il.rules.sgd(0.1)),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), il.rules.sgd(0.1, momentum=0.9)),
    "nesterov": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
        il.rules.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    "weight decay": (lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1), il.rules.sgd(0.1, weight_decay=0.1)),
    "all": (
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
        il.rules.sgd(0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    ),
    "adam": (lambda p: torch.optim.Adam(p, 0.01), il.rules.adam(0.01)),
    "adam beta1=0": (lambda p: torch.optim.Adam(p, 0.01, (0.0, 0.999)), il.rules.adam(0.01, betas=(0.0, 0.999))),
    "adam decay": (
        lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.9), 1e-4, weight_decay=0.1),
        il.rules.adam(0.01, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1),
    ),
    "adamw": (lambda p: torch.optim.AdamW(p, 0.01), il.rules.adamw(0.01)),
    "adamw decay": (
        lambda p: torch.optim.AdamW(p, 0.01, (0.0, 0.9), 1e-4, weight_decay=0.5),
        il.rules.adamw(0.01, betas=(0.0, 0.9), eps=1e-4, weight_decay=0.5),
    ),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, 0.01), il.rules.rmsprop(0.01)),
    "rmsprop momentum": (
        lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 1e-4, weight_decay=0.1, momentum=0.9),
        il.rules.rmsprop(0.01, alpha=0.9, eps=1e-4, weight_decay=0.1, momentum=0.9),
    ),
    "rmsprop centered": (
        lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 1e-4, momentum=0.5, centered=True),
        il.rules.rmsprop(0.01, alpha=0.9, eps=1e-4, momentum=0.5, centered=True),
    ),
    "adagrad": (lambda p: torch.optim.Adagrad(p, 0.1), il.rules.adagrad(0.1)),
    "adagrad all": (
        lambda p: torch.optim.Adagrad(p, 0.1, 0.5, 0.1, 0.2, 1e-4),
        il.rules.adagrad(0.1, lr_decay=0.5, weight_decay=0.1, initial_accumulator_value=0.2, eps=1e-4),
    ),
}
CLOSE = {torch.float64: {"rtol": 1e-12, "atol": 1e-14}, torch.float32: {"rtol": 2e-5, "atol": 1e-6}}


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_that_of_torch(case: str, dtype: torch.dtype) -> None:
    make, rule = CASES[case]
    start = {"w": torch.randn(3, 2, dtype=dtype), "b": torch.randn(2, dtype=dtype)}
    theirs = {n: nn.Parameter(p.clone()) for n, p in start.items()}
    optimizer = make(theirs.values())
    ours, state = dict(start), rule.init(start, {})
    for _ in range(10):
        grads = {n: torch.randn_like(p) for n, p in start.items()}
        for name, p in theirs.items():
            p.grad = grads[name].clone()
        optimizer.step()
        ours, state = rule.step(ours, grads, state)
        for name, p in theirs.items():
            torch.testing.assert_close(ours[name], p.detach(), **CLOSE[dtype])
            assert ours[name].dtype == dtype
    assert not torch.allclose(ours["w"], start["w"], atol=1e-3)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_adapting_is_training_with_torch(case: str, dtype: torch.dtype) -> None:
    make, rule = CASES[case]
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    x, y = torch.randn(6, 3, generator=rng(), dtype=torch.float64).to(dtype), torch.tensor([0, 1, 0, 1, 1, 0])
    adapted = il.adapt(net, il.Method(il.Adaptation(rule, 10), il.unrolled()), x, y)
    optimizer = make(net.parameters())
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(adapted[name], p.detach(), **CLOSE[dtype])


@pytest.mark.parametrize("case", CASES)
def test_a_torch_optimizer_is_read_into_the_equal_rule(case: str) -> None:
    make, rule = CASES[case]
    params = {"w": torch.randn(3, dtype=torch.float64)}
    ours, theirs = dict(params), dict(params)
    read = il.rules.from_torch(make([nn.Parameter(p.clone()) for p in params.values()]))
    state, other = rule.init(params, {}), read.init(params, {})
    for _ in range(3):
        grads = {"w": torch.randn(3, dtype=torch.float64)}
        ours, state = rule.step(ours, grads, state)
        theirs, other = read.step(theirs, grads, other)
        assert torch.equal(ours["w"], theirs["w"])


def parameters(count: int = 1) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2)) for _ in range(count)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.optim.Adadelta(parameters()), "no inner rule for Adadelta; use one of SGD, Adam"),
        (lambda: torch.optim.NAdam(parameters()), "no inner rule for NAdam"),
        (lambda: torch.optim.Adam(parameters(), amsgrad=True), "Adam has amsgrad=True"),
        (lambda: torch.optim.SGD(parameters(), 0.1, maximize=True), "SGD has maximize=True"),
        (lambda: torch.optim.SGD(parameters(), 0.1, momentum=0.9, dampening=0.5), "SGD has dampening=0.5"),
        (
            lambda: torch.optim.SGD([{"params": parameters(), "lr": 1.0}, {"params": parameters()}], 0.1),
            r"groups differ in lr \(1.0 and 0.1\)",
        ),
    ],
)
def test_what_no_rule_can_carry_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        il.rules.from_torch(make())


def test_groups_with_the_same_settings_and_rates_that_are_tensors_are_read() -> None:
    groups = [{"params": parameters()}, {"params": parameters()}]
    rule = il.rules.from_torch(torch.optim.Adam(groups, torch.tensor(0.5)))
    params = {"w": torch.ones(2)}
    assert torch.allclose(rule.step(params, params, rule.init(params, {}))[0]["w"], torch.full((2,), 0.5))


def test_a_rule_writes_to_nothing_that_it_is_given() -> None:
    for _, rule in CASES.values():
        params, grads = {"w": torch.ones(2)}, {"w": torch.ones(2)}
        state = rule.init(params, {})
        _, one = rule.step(params, grads, state)
        versions = [t._version for t in tensors(one)]
        rule.step(params, grads, one)
        assert versions == [t._version for t in tensors(one)]
        assert params["w"].tolist() == grads["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: il.rules.sgd(-0.1), "lr is -0.1"),
        (lambda: il.rules.sgd(float("nan")), "lr is nan"),
        (lambda: il.rules.sgd(float("inf")), "lr is inf"),
        (lambda: il.rules.sgd(0.1, momentum=-1), "momentum is -1"),
        (lambda: il.rules.sgd(0.1, momentum=1.0), "momentum is 1.0; it must be below 1"),
        (lambda: il.rules.sgd(0.1, weight_decay=-1), "weight_decay is -1"),
        (lambda: il.rules.sgd(0.1, nesterov=True), "needs a momentum"),
        (lambda: il.rules.adam(-0.1), "lr is -0.1"),
        (lambda: il.rules.adam(0.1, betas=(1.0, 0.9)), "beta1 is 1.0"),
        (lambda: il.rules.adam(0.1, betas=(0.9, -0.1)), "beta2 is -0.1"),
        (lambda: il.rules.adam(0.1, eps=-1), "eps is -1"),
        (lambda: il.rules.adam(0.1, weight_decay=-1), "weight_decay is -1"),
        (lambda: il.rules.adamw(-0.1), "lr is -0.1"),
        (lambda: il.rules.adamw(0.1, weight_decay=-1), "weight_decay is -1"),
        (lambda: il.rules.rmsprop(0.1, alpha=1.0), "alpha is 1.0; it must be below 1"),
        (lambda: il.rules.rmsprop(0.1, momentum=-1), "momentum is -1"),
        (lambda: il.rules.adagrad(0.1, lr_decay=-1), "lr_decay is -1"),
        (lambda: il.rules.adagrad(0.1, initial_accumulator_value=-1), "initial_accumulator_value is -1"),
    ],
)
def test_impossible_rules_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def tensors(state) -> list[Tensor]:
    if isinstance(state, dict):
        return [t for item in state.values() for t in tensors(item)]
    return [state]
