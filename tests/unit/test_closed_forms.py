"""Meta-gradients on quadratics, where they are known: L(w) = (w - a)' H (w - a) / 2 has the gradient H (w - a)."""

from __future__ import annotations

import pytest
import torch
from core_helpers import assert_same
from torch import Tensor, nn

import innerloop as il

D, ALPHA = 3, 0.1


class Point(nn.Module):
    """A parameter w and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(D, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(x.shape[0], D)


def quadratic(outputs: Tensor, targets: Tensor) -> Tensor:
    """The target of the only example holds a, then H."""
    w, a, h = outputs[0], targets[0, :D], targets[0, D:].reshape(D, D)
    return (w - a) @ h @ (w - a) / 2


def pack(a: Tensor, h: Tensor) -> Tensor:
    return torch.cat([a, h.flatten(1)], 1)[:, None]


class Quadratics:
    """Tasks with (a, Hs) to adapt on and (b, Hq) to be scored on."""

    def __init__(self, tasks: int) -> None:
        def matrices() -> Tensor:
            m = torch.randn(tasks, D, D, dtype=torch.float64)
            return m @ m.mT + torch.eye(D, dtype=torch.float64)

        self.a, self.b = torch.randn(2, tasks, D, dtype=torch.float64)
        self.hs, self.hq = matrices(), matrices()
        x = torch.zeros(tasks, 1, 1, dtype=torch.float64)
        self.episode = il.Episode(x, pack(self.a, self.hs), x, pack(self.b, self.hq))

    def shrink(self, steps: int) -> Tensor:
        """(I - alpha Hs)^K, the derivative of w_K with respect to w."""
        return torch.linalg.matrix_power(torch.eye(D, dtype=torch.float64) - ALPHA * self.hs, steps)

    def adapted(self, w: Tensor, steps: int) -> Tensor:
        return self.a + (self.shrink(steps) @ (w - self.a)[..., None])[..., 0]

    def query_gradient(self, w: Tensor, steps: int) -> Tensor:
        return (self.hq @ (self.adapted(w, steps) - self.b)[..., None])[..., 0]


def gradient(method: il.Method, net: nn.Module, tasks: Quadratics, **options) -> Tensor:
    grads, _ = il.meta_gradient(net, method, tasks.episode, quadratic, **options)
    assert list(grads) == ["w"]
    return grads["w"]


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("execution", ["serial", "batched"])
def test_maml(steps: int, execution: str) -> None:
    net, tasks = Point(), Quadratics(4)
    inner = tasks.query_gradient(net.w.detach(), steps)
    expected = (tasks.shrink(steps).mT @ inner[..., None])[..., 0].mean(0)
    actual = gradient(il.maml(ALPHA, steps), net, tasks, execution=execution)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_fomaml(steps: int) -> None:
    net, tasks = Point(), Quadratics(4)
    expected = tasks.query_gradient(net.w.detach(), steps).mean(0)
    torch.testing.assert_close(gradient(il.fomaml(ALPHA, steps), net, tasks), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_reptile_with_gradient_descent(steps: int) -> None:
    net, tasks = Point(), Quadratics(4)
    method = il.reptile(ALPHA, steps, None, inner_optimizer="sgd")
    w = net.w.detach()
    torch.testing.assert_close(
        gradient(method, net, tasks), (w - tasks.adapted(w, steps)).mean(0), rtol=1e-11, atol=1e-12
    )


def test_reptile_with_one_step_is_the_support_gradient() -> None:
    net, tasks = Point(), Quadratics(4)
    support = (tasks.hs @ (net.w.detach() - tasks.a)[..., None])[..., 0]
    actual = gradient(il.reptile(ALPHA, 1, None, inner_optimizer="sgd"), net, tasks)
    torch.testing.assert_close(actual, ALPHA * support.mean(0), rtol=1e-11, atol=1e-12)


def test_maml_and_fomaml_differ_by_the_factor_only() -> None:
    net, tasks = Point(), Quadratics(1)
    exact, first = (gradient(make(ALPHA, 3), net, tasks) for make in (il.maml, il.fomaml))
    assert not torch.allclose(exact, first, rtol=1e-2)
    torch.testing.assert_close(exact, tasks.shrink(3)[0].T @ first, rtol=1e-11, atol=1e-12)


def test_the_losses_are_those_of_the_quadratics() -> None:
    net, tasks = Point(), Quadratics(3)
    w = net.w.detach()
    _, info = il.meta_gradient(net, il.maml(ALPHA, 2), tasks.episode, quadratic)
    far = tasks.adapted(w, 2) - tasks.b
    torch.testing.assert_close(info.loss, torch.einsum("ti,tij,tj->t", far, tasks.hq, far) / 2)
    for k in (0, 1):
        off = tasks.adapted(w, k) - tasks.a
        expected = torch.einsum("ti,tij,tj->t", off, tasks.hs, off) / 2
        torch.testing.assert_close(info.support_losses[:, k], expected)
    assert info.query_accuracy is None


@pytest.mark.parametrize("estimator", [il.unrolled, il.first_order])
def test_the_gradient_of_a_learned_rate(estimator) -> None:
    """With one step, w_1 = w - lr g: the rate's gradient is -g . Hq (w_1 - b), first order or not."""
    net, tasks = Point(), Quadratics(4)
    method = il.Method(il.Adaptation(learned_rate(), 1), estimator())
    grads, _ = il.meta_gradient(net, method, tasks.episode, quadratic)
    support = (tasks.hs @ (net.w.detach() - tasks.a)[..., None])[..., 0]
    expected = -(support * tasks.query_gradient(net.w.detach(), 1)).sum(1).mean()
    assert list(grads) == ["w", "method.lr"]
    torch.testing.assert_close(grads["method.lr"], expected, rtol=1e-11, atol=1e-12)


def test_the_weights_of_an_objective_weigh_the_iterates() -> None:
    net, tasks = Point(), Quadratics(3)
    weights = (0.5, 0.0, 2.0)
    method = il.Method(il.Adaptation(il.rules.sgd(ALPHA), 2, objective=lambda steps: weights), il.unrolled())
    grads, info = il.meta_gradient(net, method, tasks.episode, quadratic)
    parts = [il.meta_gradient(net, il.maml(ALPHA, k), tasks.episode, quadratic) for k in range(3)]
    expected = sum(w * part[0]["w"] for w, part in zip(weights, parts, strict=True))
    assert_same(grads, {"w": expected})
    torch.testing.assert_close(info.loss, sum(w * part[1].loss for w, part in zip(weights, parts, strict=True)))


def learned_rate() -> il.rules.InnerRule:
    return il.rules.InnerRule(
        init=lambda params, learned: learned["lr"],
        step=lambda params, grads, lr: ({n: p - lr * grads[n] for n, p in params.items()}, lr),
        learned=lambda params: {"lr": torch.tensor(ALPHA, dtype=torch.float64)},
    )
