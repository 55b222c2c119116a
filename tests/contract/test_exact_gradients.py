"""The exact estimator against an inner loop written out by hand, gradcheck and finite differences, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    assert_same,
    finite_differences,
    own_loss,
    plain_loss,
    regression_episode,
    trainable,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il


def hand_sgd(lr: float, momentum: float = 0.0, nesterov: bool = False, decay: float = 0.0):
    def step(params, grads, state, k):
        new, buffers = {}, {}
        for name, p in params.items():
            g = grads[name] + decay * p
            b = g if state is None else momentum * state[name] + g
            buffers[name] = b
            new[name] = p - lr * (g + momentum * b if nesterov else b)
        return new, buffers

    return step


def hand_adam(lr: float, beta1: float, beta2: float, eps: float, decay: float = 0.0):
    def step(params, grads, state, k):
        new, moments = {}, {}
        for name, p in params.items():
            g = grads[name] + decay * p
            m, v = (torch.zeros_like(p), torch.zeros_like(p)) if state is None else state[name]
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
            moments[name] = (m, v)
            new[name] = p - lr * (m / (1 - beta1**k)) / ((v / (1 - beta2**k)).sqrt() + eps)
        return new, moments

    return step


def hand_adamw(lr: float, beta1: float, beta2: float, eps: float, decay: float):
    adam = hand_adam(lr, beta1, beta2, eps)
    return lambda params, grads, state, k: adam({n: p - lr * decay * p for n, p in params.items()}, grads, state, k)


def hand_rmsprop(lr: float, rho: float, eps: float, momentum: float, centered: bool):
    def step(params, grads, state, k):
        new, moments = {}, {}
        for name, p in params.items():
            g = grads[name]
            v, mean, b = (torch.zeros_like(p),) * 3 if state is None else state[name]
            v, mean = rho * v + (1 - rho) * g**2, rho * mean + (1 - rho) * g
            spread = v - mean**2 if centered else v
            b = momentum * b + g / (spread.sqrt() + eps)
            moments[name] = (v, mean, b)
            new[name] = p - lr * b
        return new, moments

    return step


def hand_adagrad(lr: float, lr_decay: float, eps: float):
    def step(params, grads, state, k):
        sums = {n: grads[n] ** 2 + (0 if state is None else state[n]) for n in params}
        rate = lr / (1 + (k - 1) * lr_decay)
        return {n: p - rate * grads[n] / (sums[n].sqrt() + eps) for n, p in params.items()}, sums

    return step


def hand_clipped(lr: float, max_norm: float):
    def step(params, grads, state, k):
        norm = torch.cat([g.flatten() for g in grads.values()]).norm()
        factor = max_norm / (norm + 1e-6) if norm > max_norm else 1.0
        return {n: p - lr * factor * grads[n] for n, p in params.items()}, None

    return step


def learned_rates() -> il.rules.InnerRule:
    """One learned rate a parameter, and one learned decay, all under ``method.``."""
    return il.rules.InnerRule(
        init=lambda params, learned: dict(learned),
        step=lambda params, grads, state: (
            {n: p - state[f"lr.{n}"] * (grads[n] + state["decay"] * p) for n, p in params.items()},
            state,
        ),
        learned=lambda params: {
            **{f"lr.{n}": torch.tensor(0.1 * (i + 1), dtype=torch.float64) for i, n in enumerate(params)},
            "decay": torch.tensor(0.05, dtype=torch.float64),
        },
    )


RULES: dict[str, tuple[il.rules.InnerRule, Any]] = {
    "sgd": (il.rules.sgd(0.3), hand_sgd(0.3)),
    "momentum": (il.rules.sgd(0.3, momentum=0.9), hand_sgd(0.3, 0.9)),
    "nesterov": (il.rules.sgd(0.3, momentum=0.9, nesterov=True), hand_sgd(0.3, 0.9, True)),
    "weight decay": (il.rules.sgd(0.3, weight_decay=0.2), hand_sgd(0.3, decay=0.2)),
    "momentum and decay": (il.rules.sgd(0.3, momentum=0.5, weight_decay=0.2), hand_sgd(0.3, 0.5, decay=0.2)),
    "adam": (il.rules.adam(0.1, eps=1e-3), hand_adam(0.1, 0.9, 0.999, 1e-3)),
    "adam beta1=0": (il.rules.adam(0.1, betas=(0.0, 0.99), eps=1e-2), hand_adam(0.1, 0.0, 0.99, 1e-2)),
    "adam decay": (il.rules.adam(0.1, eps=1e-2, weight_decay=0.3), hand_adam(0.1, 0.9, 0.999, 1e-2, 0.3)),
    "adamw": (il.rules.adamw(0.1, eps=1e-2, weight_decay=0.3), hand_adamw(0.1, 0.9, 0.999, 1e-2, 0.3)),
    "rmsprop": (
        il.rules.rmsprop(0.1, alpha=0.9, eps=1e-2, momentum=0.5),
        hand_rmsprop(0.1, 0.9, 1e-2, 0.5, centered=False),
    ),
    "rmsprop centered": (
        il.rules.rmsprop(0.1, alpha=0.9, eps=1e-2, centered=True),
        hand_rmsprop(0.1, 0.9, 1e-2, 0.0, centered=True),
    ),
    "adagrad": (il.rules.adagrad(0.2, lr_decay=0.5, eps=1e-2), hand_adagrad(0.2, 0.5, 1e-2)),
    "clipped": (il.rules.clipped(il.rules.sgd(0.3), max_norm=0.2), hand_clipped(0.3, 0.2)),
    "scheduled": (
        il.rules.scheduled(il.rules.sgd(0.3), lambda k: 1 / (1 + k)),
        lambda params, grads, state, k: ({n: p - 0.3 / k * grads[n] for n, p in params.items()}, None),
    ),
}


def tiny_net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double()


def tiny_episode() -> il.Episode:
    return vector_episode(tasks=2, features=2, ways=2, support=3, queries=3)


def exact(rule: il.rules.InnerRule, steps: int) -> il.Method:
    return il.Method(il.Adaptation(rule, steps), il.unrolled())


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("rule", RULES)
def test_unrolled_is_exact(rule: str, steps: int) -> None:
    net, episode = tiny_net(), tiny_episode()
    ours, by_hand = RULES[rule]
    at = {n: p.detach().clone().requires_grad_() for n, p in trainable(net).items()}

    def objective(*values: Tensor) -> Tensor:
        return plain_loss(net, dict(zip(at, values, strict=True)), episode, by_hand, steps)

    assert torch.autograd.gradcheck(objective, tuple(at.values()))
    expected = dict(zip(at, torch.autograd.grad(objective(*at.values()), list(at.values())), strict=True))
    method = exact(ours, steps)
    for execution in ("serial", "batched"):
        grads, info = il.meta_gradient(net, method, episode, execution=execution)
        assert_same(grads, expected, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(info.loss.mean(), objective(*at.values()).detach(), rtol=1e-11, atol=0)
    assert_same(grads, finite_differences(own_loss(net, method, episode), at), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_unrolled_is_exact_in_what_a_rule_learns(steps: int) -> None:
    net, episode = tiny_net(), tiny_episode()
    method = exact(learned_rates(), steps)
    learned = {f"method.{n}": t for n, t in method.adaptation.rule.learned(trainable(net)).items()}
    at = {n: p.detach().clone().requires_grad_() for n, p in {**trainable(net), **learned}.items()}

    def objective(*values: Tensor) -> Tensor:
        named = dict(zip(at, values, strict=True))
        params = {n: p for n, p in named.items() if not n.startswith("method.")}

        def step(now, grads, state, k):
            return (
                {n: p - named[f"method.lr.{n}"] * (grads[n] + named["method.decay"] * p) for n, p in now.items()},
                None,
            )

        return plain_loss(net, params, episode, step, steps)

    assert torch.autograd.gradcheck(objective, tuple(at.values()))
    expected = dict(zip(at, torch.autograd.grad(objective(*at.values()), list(at.values())), strict=True))
    grads, _ = il.meta_gradient(net, method, episode)
    assert all(float(grads[n].abs()) > 1e-4 for n in learned)
    assert_same(grads, expected, rtol=1e-8, atol=1e-10)
    assert_same(grads, finite_differences(own_loss(net, method, episode), at), rtol=1e-5, atol=1e-8)


def test_unrolled_is_exact_for_regression() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    method, episode = il.maml(0.02, 2), regression_episode(3)
    grads, _ = il.meta_gradient(net, method, episode, F.mse_loss)
    slopes = finite_differences(own_loss(net, method, episode, F.mse_loss), trainable(net))
    assert_same(grads, slopes, rtol=1e-5, atol=1e-8)


def test_unrolled_is_exact_where_only_some_parameters_are_adapted() -> None:
    """What the inner loop leaves alone still shapes the inner gradients."""
    net, episode = tiny_net(), tiny_episode()
    method = il.maml(0.5, 2, adapt="2.*")
    grads, _ = il.meta_gradient(net, method, episode)
    assert_same(grads, finite_differences(own_loss(net, method, episode), trainable(net)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_unrolled_is_exact_through_batch_norm(norm: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Linear(2, 2)).double()
    method, episode = il.maml(0.3, 1), tiny_episode()
    grads, _ = il.meta_gradient(net, method, episode, norm=norm)
    slopes = finite_differences(own_loss(net, method, episode, norm=norm), trainable(net))
    assert_same(grads, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_is_the_query_gradient_at_the_adapted_parameters(steps: int) -> None:
    net, episode = tiny_net(), tiny_episode()
    grads, _ = il.meta_gradient(net, il.fomaml(0.3, steps), episode)
    sums = {n: torch.zeros_like(p) for n, p in trainable(net).items()}
    for i in range(episode.tasks):
        adapted = il.adapt(net, il.maml(0.3, steps), episode.support_x[i], episode.support_y[i])
        at = {n: p.requires_grad_() for n, p in adapted.items()}
        loss = F.cross_entropy(torch.func.functional_call(net, at, (episode.query_x[i],)), episode.query_y[i])
        for name, g in zip(at, torch.autograd.grad(loss, list(at.values())), strict=True):
            sums[name] += g / episode.tasks
    assert_same(grads, sums)
    exact_grads, _ = il.meta_gradient(net, il.maml(0.3, steps), episode)
    with pytest.raises(AssertionError):  # first order is not exact here, and the comparison tells
        assert_same(grads, exact_grads, rtol=1e-3)


@pytest.mark.parametrize(
    "rule",
    [
        il.rules.adam(0.01),
        il.rules.adam(0.01, betas=(0.0, 0.999)),
        il.rules.adamw(0.01),
        il.rules.rmsprop(0.01, momentum=0.9),
        il.rules.rmsprop(0.01, centered=True),
        il.rules.adagrad(0.01),
        il.rules.clipped(il.rules.sgd(0.01), max_norm=1e-3),
    ],
)
@pytest.mark.parametrize("estimator", [il.unrolled, il.first_order])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_meta_gradient_is_finite_where_a_gradient_is_zero(rule, estimator, dtype) -> None:
    """A dead input has a gradient of exactly zero, where the derivative of Adam's square root is infinite."""
    net, episode = nn.Linear(3, 2).to(dtype), vector_episode(2, features=3, ways=2).map(Tensor.clone)
    episode.support_x[..., 0] = 0.0
    episode = il.Episode(episode.support_x.to(dtype), episode.support_y, episode.query_x.to(dtype), episode.query_y)
    method = il.Method(il.Adaptation(rule, 2), estimator())
    grads, _ = il.meta_gradient(net, method, episode)
    assert all(bool(g.isfinite().all()) for g in grads.values())
    assert float(grads["weight"][:, 0].abs().min()) > 0


def test_clipping_survives_a_gradient_that_is_zero_everywhere() -> None:
    net, x, y = nn.Linear(3, 1).double(), torch.zeros(1, 4, 3).double(), torch.zeros(1, 4, 1).double()
    nn.init.zeros_(net.bias)
    method = il.Method(il.Adaptation(il.rules.clipped(il.rules.sgd(0.1), max_norm=1.0), 2), il.unrolled())
    grads, _ = il.meta_gradient(net, method, il.Episode(x, y, x + 1, y), F.mse_loss)
    assert all(bool(g.isfinite().all()) for g in grads.values())


def test_adam_does_not_move_where_gradients_are_zero() -> None:
    net, episode = nn.Linear(3, 2).double(), vector_episode(1, features=3, ways=2).map(Tensor.clone)
    episode.support_x[..., 0] = 0.0
    method = il.Method(il.Adaptation(il.rules.adam(0.01), 3), il.unrolled())
    adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
    assert torch.equal(adapted["weight"][:, 0], net.weight[:, 0])
    assert not torch.equal(adapted["weight"][:, 1], net.weight[:, 1])
