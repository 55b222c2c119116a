"""Rules whose settings are meta-learned."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from core_helpers import (
    assert_exact,
    assert_is,
    assert_same,
    meta_params_of,
    rng,
    smooth_net,
    trainable,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il

rules = il.rules
CASES = {
    "sgd": (rules.sgd, {"lr": 0.3, "weight_decay": 0.1}),
    "momentum": (rules.sgd, {"lr": 0.3, "momentum": 0.4, "weight_decay": 0.1}),
    "nesterov": (partial(rules.sgd, nesterov=True), {"lr": 0.3, "momentum": 0.4}),
    "adam": (rules.adam, {"lr": 0.1, "betas": (0.6, 0.8), "eps": 0.02, "weight_decay": 0.1}),
    "adamw": (rules.adamw, {"lr": 0.1, "betas": (0.6, 0.8), "eps": 0.02, "weight_decay": 0.1}),
    "rmsprop": (rules.rmsprop, {"lr": 0.05, "alpha": 0.7, "eps": 0.02, "weight_decay": 0.1, "momentum": 0.4}),
    "centered": (partial(rules.rmsprop, centered=True), {"lr": 0.05, "alpha": 0.7, "eps": 0.1}),
    "adagrad": (
        rules.adagrad,
        {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.05, "eps": 0.02},
    ),
    "proximal": (partial(rules.proximal, rules.sgd(0.3)), {"strength": 0.5}),
}
EACH = pytest.mark.parametrize("case", CASES)


def method_of(rule: rules.InnerRule, steps: int = 3) -> il.Method:
    return il.Method(il.Adaptation(rule, steps), il.unrolled())


@EACH
def test_settings_that_are_not_trained_yet_are_what_was_given(case: str) -> None:
    make, settings = CASES[case]
    assert_is(method_of(rules.learned_settings(make, **settings)), method_of(make(**settings)))


@EACH
@pytest.mark.parametrize("execution", ["serial", "batched"])
def test_the_gradient_is_exact_in_each_setting(execution: str, case: str) -> None:
    make, settings = CASES[case]
    net, method = nn.Linear(2, 2).double(), method_of(rules.learned_settings(make, **settings))
    episode, g = vector_episode(2, features=2, ways=2), rng(1)
    meta = {
        n: t + 0.1 * torch.rand((), generator=g).double() if n.startswith("method.") else t
        for n, t in meta_params_of(trainable(net), method).items()
    }
    grads, _ = il.meta_gradient(net, method, episode, meta_params=meta, execution=execution)
    count = sum(len(v) if isinstance(v, tuple) else 1 for v in settings.values())
    learned = [n for n in grads if n.startswith("method.")]
    assert len(learned) == count
    assert all(float(grads[n].abs()) > 1e-8 for n in learned)
    if execution == "batched":
        assert_exact(net, method, episode, meta)


@pytest.mark.parametrize("estimator", [il.checkpointed(), il.mixed_mode()])
def test_every_exact_estimator_gives_the_same(estimator: object) -> None:
    net, episode, adaptation = (
        smooth_net(),
        vector_episode(),
        il.Adaptation(rules.learned_settings(CASES["adam"][0], **CASES["adam"][1]), 4),
    )
    grads, _ = il.meta_gradient(net, il.Method(adaptation, estimator), episode)
    assert_same(grads, il.meta_gradient(net, il.Method(adaptation, il.unrolled()), episode)[0])


def test_each_is_learned_on_its_scale() -> None:
    rule = rules.learned_settings(rules.adam, lr=0.5, betas=(0.9, 0.99), eps=1e-3)
    learned = rule.learned({"w": torch.zeros(2, dtype=torch.float64)})
    assert {n: t.shape for n, t in learned.items()} == dict.fromkeys(learned, torch.Size([]))
    assert {n: pytest.approx(float(t)) for n, t in learned.items()} == {
        "lr": 0.5,
        "betas.0.logit": math.log(9),
        "betas.1.logit": math.log(99),
        "eps.log": math.log(1e-3),
    }


def test_trained_settings_are_used() -> None:
    rule, params = rules.learned_settings(rules.sgd, lr=1.0, momentum=0.5), {"w": torch.tensor(0.0)}
    state, seen = rule.init(params, {"lr": torch.tensor(2.0), "momentum.logit": torch.tensor(3.0).log()}), []
    for _ in range(2):
        params, state = rule.step(params, {"w": torch.tensor(-1.0)}, state)
        seen.append(float(params["w"]))
    assert seen == pytest.approx([2.0, 2.0 + 2.0 * 1.75])


def test_they_chain_with_learned_rates() -> None:
    rule = rules.learned_rates(rules.learned_settings(partial(rules.adam, 1.0), betas=(0.6, 0.8)), 0.1, per="layer")
    plain = rules.adam(0.1, betas=(0.6, 0.8))
    assert_is(method_of(rule), method_of(plain))
    twice = rules.learned_rates(rules.learned_settings(rules.sgd, lr=1.0), 0.1, per="scalar")
    with pytest.raises(ValueError, match="already learns lr"):
        twice.learned({"w": torch.zeros(1)})
    nested = rules.learned_settings(lambda lr: rules.learned_sgd(0.1, per="scalar"), lr=1.0)
    with pytest.raises(ValueError, match="already learns lr"):
        nested.learned({"w": torch.zeros(1)})


def test_outer_training_keeps_them_in_their_range() -> None:
    """With steps so large that a β beside 1 would cross it."""
    net, episode = smooth_net(), vector_episode()
    method = method_of(rules.learned_settings(rules.adam, lr=0.05, betas=(0.9, 0.999), eps=1e-8))
    trainer = il.MetaTrainer(net, method, lambda p: torch.optim.Adam(p, 0.1))
    start = {n: p.detach().clone() for n, p in trainer.meta_params.items()}
    losses = [float(trainer.step(episode).loss.mean()) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    moved = {n: p for n, p in trainer.meta_params.items() if n.startswith("method.")}
    assert all(p.isfinite() and p != start[n] for n, p in moved.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "no setting to learn"),
        ({"lr": 0.1, "nesterov": True, "momentum": 0.0}, "nesterov=True needs a momentum"),
        ({"lr": 0.1, "momentum": 0.0}, "momentum is 0.0; it must begin above 0 and below 1"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": 0.1, "momentum": 1.5}, "momentum is 1.5"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], words: str) -> None:
    make = rules.sgd if settings else partial(rules.sgd, 0.1)
    with pytest.raises(ValueError, match=words):
        rules.learned_settings(make, **settings)


def test_an_epsilon_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="eps is 0.0; it must begin above 0 to be learned"):
        rules.learned_settings(rules.adam, lr=0.1, eps=0.0)


def test_a_tensor_is_taken_for_a_setting() -> None:
    """By the rules themselves, so that a rule of one's own may be made of them."""
    lr = torch.tensor(0.5, requires_grad=True)
    params: dict[str, Tensor] = {"w": torch.tensor(1.0)}
    rule = rules.sgd(lr, momentum=torch.tensor(0.9))
    moved = rule.step(params, {"w": torch.tensor(3.0)}, rule.init(params, {}))[0]["w"]
    assert torch.autograd.grad(moved, lr)[0] == -3.0
