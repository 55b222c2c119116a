"""Learned rates, clipping and schedules: rules made of rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, finite_differences, own_loss, rng, smooth_net, trainable, vector_episode
from torch import Tensor, nn

import innerloop as il

PER = ["scalar", "layer", "layer_and_step", "weight"]


def learned_method(per: str, steps: int = 2, lr: float = 0.3, **options) -> il.Method:
    rule = il.rules.learned_sgd(lr, per=per, steps=steps if per == "layer_and_step" else None, **options)
    return il.Method(il.Adaptation(rule, steps), il.unrolled())


@pytest.mark.parametrize("per", PER)
def test_rates_that_are_not_trained_yet_are_the_rate(per: str) -> None:
    net, episode = smooth_net(), vector_episode()
    grads, info = il.meta_gradient(net, learned_method(per), episode)
    expected, observed = il.meta_gradient(net, il.maml(0.3, 2), episode)
    assert_same({n: grads[n] for n in expected}, expected)
    torch.testing.assert_close(info.loss, observed.loss)


@pytest.mark.parametrize(
    ("per", "shapes"),
    [
        ("scalar", {"lr": []}),
        ("layer", {"lr.0.weight": [], "lr.0.bias": [], "lr.2.weight": [], "lr.2.bias": []}),
        ("layer_and_step", {"lr.0.weight": [2], "lr.0.bias": [2], "lr.2.weight": [2], "lr.2.bias": [2]}),
        ("weight", {"lr.0.weight": [5, 4], "lr.0.bias": [5], "lr.2.weight": [3, 5], "lr.2.bias": [3]}),
    ],
)
def test_what_is_learned_has_the_shape_that_per_says(per: str, shapes: dict[str, list[int]]) -> None:
    learned = learned_method(per).adaptation.rule.learned(trainable(smooth_net()))
    assert {n: list(t.shape) for n, t in learned.items()} == shapes
    assert all(t.dtype == torch.float64 and not t.requires_grad and bool((t == 0.3).all()) for t in learned.values())


@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("per", PER)
def test_the_gradient_of_learned_rates_is_exact(per: str, execution: str) -> None:
    net, episode = smooth_net(hidden=3), vector_episode(2)
    method = learned_method(per, momentum=0.5)
    learned = {f"method.{n}": t for n, t in method.adaptation.rule.learned(trainable(net)).items()}
    g = rng(1)
    meta = {**trainable(net), **{n: t + 0.1 * torch.rand(t.shape, generator=g) for n, t in learned.items()}}
    grads, _ = il.meta_gradient(net, method, episode, meta_params=meta, execution=execution)
    assert all(float(grads[n].abs().min()) > 0 for n in learned)
    assert_same(grads, finite_differences(own_loss(net, method, episode), meta), rtol=1e-5, atol=1e-8)


def test_steps_beyond_the_learned_ones_reuse_the_last_rate() -> None:
    rule = il.rules.learned_sgd(0.0, per="layer_and_step", steps=2)
    params = {"w": torch.tensor(0.0)}
    state = rule.init(params, {"lr.w": torch.tensor([1.0, 10.0])})
    seen = []
    for _ in range(4):
        params, state = rule.step(params, {"w": torch.tensor(-1.0)}, state)
        seen.append(float(params["w"]))
    assert seen == [1.0, 11.0, 21.0, 31.0]


def test_only_what_is_adapted_has_rates() -> None:
    net, episode = smooth_net(), vector_episode()
    training = il.Adaptation(il.rules.learned_sgd(0.3, per="layer"), 2, adapt="2.*")
    grads, _ = il.meta_gradient(net, il.Method(training, il.unrolled()), episode)
    assert float(grads["method.lr.2.weight"].abs()) > 0
    assert [n for n in grads if "0.weight" in n] == ["0.weight"]
    # What new tasks adapt beside has its rates too; nothing teaches those.
    method = il.Method(training, il.unrolled(), replace(training, adapt="2.* 0.weight"))
    grads, _ = il.meta_gradient(net, method, episode)
    assert float(grads["method.lr.0.weight"]) == 0
    assert "method.lr.0.bias" not in grads
    adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
    assert not torch.equal(adapted["0.weight"], net[0].weight)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: il.rules.learned_sgd(-0.1), "lr is -0.1"),
        (lambda: il.rules.learned_sgd(0.1, per="step"), "per is 'step'; choose one of 'scalar'"),
        (lambda: il.rules.learned_sgd(0.1, per="layer_and_step"), "steps is None"),
        (lambda: il.rules.learned_sgd(0.1, per="layer_and_step", steps=-1), "steps is -1"),
        (lambda: il.rules.learned_sgd(0.1, steps=3), "steps is 3 and per is 'layer'"),
        (lambda: il.rules.clipped(il.rules.sgd(0.1)), "max_norm is None and max_value is None"),
        (lambda: il.rules.clipped(il.rules.sgd(0.1), max_norm=1, max_value=1), "give one of them"),
        (lambda: il.rules.clipped(il.rules.sgd(0.1), max_norm=0.0), "a positive number"),
        (lambda: il.rules.clipped(il.rules.sgd(0.1), max_value=float("nan")), "a positive number"),
    ],
)
def test_impossible_rules_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_learning_the_rate_twice_is_refused() -> None:
    rule = il.rules.learned_rates(il.rules.learned_sgd(0.1, per="scalar"), 1.0, per="scalar")
    with pytest.raises(ValueError, match="already learns lr"):
        rule.learned({"w": torch.zeros(1)})


def test_adam_has_learned_rates_too() -> None:
    """With the rate untouched, Adam with a learned rate is Adam."""
    net, episode = smooth_net(), vector_episode()
    learned = il.rules.learned_rates(il.rules.adam(1.0), 0.05, per="layer")
    grads, _ = il.meta_gradient(net, il.Method(il.Adaptation(learned, 3), il.unrolled()), episode)
    plain = il.Method(il.Adaptation(il.rules.adam(0.05), 3), il.unrolled())
    expected, _ = il.meta_gradient(net, plain, episode)
    assert_same({n: grads[n] for n in expected}, expected, rtol=1e-7)


@pytest.mark.parametrize("bound", [0.05, 1.0, 100.0])
@pytest.mark.parametrize("kind", ["max_norm", "max_value"])
def test_clipping_is_that_of_torch(kind: str, bound: float) -> None:
    net = nn.Linear(4, 3).double()
    x, y = torch.randn(6, 4, generator=rng(), dtype=torch.float64) * 3, torch.arange(6) % 3
    rule = il.rules.clipped(il.rules.sgd(0.5, momentum=0.9), **{kind: bound})
    adapted = il.adapt(net, il.Method(il.Adaptation(rule, 4), il.unrolled()), x, y)
    clip = {"max_norm": nn.utils.clip_grad_norm_, "max_value": nn.utils.clip_grad_value_}[kind]
    optimizer = torch.optim.SGD(net.parameters(), 0.5, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        clip(net.parameters(), bound)
        optimizer.step()
    assert_same(adapted, dict(net.named_parameters()), rtol=1e-9)


def test_each_task_is_clipped_by_its_own_norm() -> None:
    net, episode = smooth_net(), vector_episode(3).map(Tensor.clone)
    episode.support_x[0] *= 100
    method = il.Method(il.Adaptation(il.rules.clipped(il.rules.sgd(0.5), max_norm=0.3), 2), il.unrolled())
    _, info = il.meta_gradient(net, method, episode)
    for i in range(3):
        _, alone = il.meta_gradient(net, method, episode[i : i + 1])
        torch.testing.assert_close(info.loss[i], alone.loss[0])


def test_a_schedule_is_that_of_torch() -> None:
    net = nn.Linear(4, 3).double()
    x, y = torch.randn(6, 4, generator=rng(), dtype=torch.float64), torch.arange(6) % 3
    rule = il.rules.scheduled(il.rules.adam(0.1), lambda k: 0.5 * (1 + torch.cos(torch.pi * k / 5)))
    adapted = il.adapt(net, il.Method(il.Adaptation(rule, 5), il.unrolled()), x, y)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        scheduler.step()
    assert_same(adapted, dict(net.named_parameters()), rtol=1e-6)
