"""The outer step takes torch's optimizer closure: sharpness-aware and line-search optimizers, with any method."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, rng, small, smooth_net, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.uphill import Uphill
from innerloop.recipes import recipe
from innerloop.recipes.build import make_trainer

Make = Callable[[Any], torch.optim.Optimizer]

sgd: Make = partial(torch.optim.SGD, lr=0.1)
adam: Make = partial(torch.optim.Adam, lr=0.01)
sharp: Make = partial(il.SharpnessAware, base=adam, radius=0.05)
line_search: Make = partial(torch.optim.LBFGS, lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
ASKING_MORE = pytest.mark.parametrize("make", [sharp, line_search], ids=["sharp", "lbfgs"])


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)).double()


def moving(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in tensors.items()}


@pytest.mark.parametrize("radius", [0.0, 0.7])
def test_a_sharpness_aware_step_on_a_quadratic(radius: float) -> None:
    """For F = x A x / 2 it is x - lr A (x + radius A x / |A x|)."""
    a = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    y = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))  # the norm is that of both together
    optimizer = il.SharpnessAware([x, y], sgd, radius=radius)
    calls = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = x @ a @ x / 2 + 5 * (y**2).sum() / 2
        loss.backward()
        calls.append(float(loss.detach()))
        return loss

    at, at_y = x.detach().clone(), y.detach().clone()
    norm = torch.cat([a @ at, 5 * at_y]).norm()
    expected = at - 0.1 * a @ (at + radius * (a @ at) / norm)
    expected_y = at_y - 0.1 * 5 * (at_y + radius * 5 * at_y / norm)
    assert float(optimizer.step(closure).detach()) == calls[0]
    assert len(calls) == 2
    assert (calls[1] > calls[0]) == (radius > 0)
    torch.testing.assert_close(x.detach(), expected)
    torch.testing.assert_close(y.detach(), expected_y)


def test_where_the_gradient_is_zero_nothing_moves() -> None:
    x = nn.Parameter(torch.zeros(3))
    optimizer = il.SharpnessAware([x], sgd, radius=1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not x.any()


def test_what_a_sharpness_aware_step_cannot_do_is_refused() -> None:
    x = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="radius is -1"):
        il.SharpnessAware([x], sgd, radius=-1.0)
    with pytest.raises(ValueError, match="call step"):
        il.SharpnessAware([x], sgd).step()


def test_parameters_come_back_where_the_second_gradient_fails() -> None:
    x = nn.Parameter(torch.tensor([0.1, 0.2]))
    optimizer, before, calls = il.SharpnessAware([x], sgd, radius=0.3), x.detach().clone(), []

    def closure() -> Tensor:
        calls.append(x.detach().clone())
        if len(calls) == 2:
            raise il.DivergedError("here")
        x.grad = torch.ones(2)
        return x.sum()

    with pytest.raises(il.DivergedError):
        optimizer.step(closure)
    assert torch.equal(x.detach(), before)
    assert not torch.equal(calls[1], before)


@pytest.mark.parametrize("name", ["maml", "reptile", "meta_sgd", "sharp_maml"])
@pytest.mark.parametrize("net", [smooth_net, dropping])
def test_each_gradient_of_a_step_is_of_the_same_tasks_batches_and_random_numbers(
    name: str, net: Callable[[], nn.Module]
) -> None:
    module, episode, method = net(), vector_episode(), small(name)
    trainer = il.MetaTrainer(module, method, partial(il.SharpnessAware, base=sgd, radius=0.3))
    meta, copied = moving(trainer.meta_params), copy.deepcopy(module)

    def gradient(at: dict[str, Tensor]) -> dict[str, Tensor]:
        torch.manual_seed(7)
        return il.meta_gradient(copied, method, episode, meta_params=at, generator=rng(3))[0]

    first = gradient(meta)
    norm = torch.cat([g.flatten() for g in first.values()]).norm()
    second = gradient({n: p + 0.3 * first[n] / norm for n, p in meta.items()})
    torch.manual_seed(7)
    trainer.step(episode, rng(3))
    assert_same(trainer.meta_params, {n: p - 0.1 * second[n] for n, p in meta.items()})
    assert any(not torch.allclose(first[n], second[n]) for n in first)


@pytest.mark.parametrize("name", ["maml", "reptile"])
def test_a_step_that_asks_twice_leaves_the_generators_where_one_that_asks_once_does(name: str) -> None:
    ends = []
    for make in (sgd, partial(il.SharpnessAware, base=sgd, radius=0.0)):
        trainer, generator = il.MetaTrainer(dropping(), small(name), make), rng(1)
        torch.manual_seed(2)
        for _ in range(3):
            trainer.step(vector_episode(), generator)
        ends.append((moving(trainer.meta_params), torch.get_rng_state(), generator.get_state()))
    assert_same(ends[0][0], ends[1][0], 0, 0)
    assert all(torch.equal(one, other) for one, other in zip(ends[0][1:], ends[1][1:], strict=True))


@pytest.mark.parametrize("make", [sgd, adam])
def test_an_optimizer_that_asks_once_steps_as_it_does_without_a_closure(make: Make) -> None:
    method, net = il.maml(0.1, 2), smooth_net()
    copied = copy.deepcopy(net)
    trainer, optimizer = il.MetaTrainer(net, method, make), make(copied.parameters())
    for seed in range(3):
        episode = vector_episode(seed=seed)
        info = trainer.step(episode)
        grads, expected = il.meta_gradient(copied, method, episode)
        for name, parameter in copied.named_parameters():
            parameter.grad = grads[name]
        optimizer.step()
        assert torch.equal(info.loss, expected.loss)
        assert_same(dict(net.named_parameters()), dict(copied.named_parameters()), 0, 0)


def test_a_line_search_follows_the_meta_objective() -> None:
    """As LBFGS does on the query loss after a written-out inner step, and downhill at each outer step."""
    torch.manual_seed(0)
    net, episode = nn.Linear(3, 1).double(), il.Episode(*(torch.randn(4, 5, n).double() for n in (3, 1, 3, 1)))
    copied = copy.deepcopy(net)
    make = partial(torch.optim.LBFGS, lr=1.0, max_iter=5, line_search_fn="strong_wolfe")
    trainer, optimizer = il.MetaTrainer(net, il.maml(0.1), make, loss_fn=F.mse_loss), make(copied.parameters())
    params = dict(copied.named_parameters())
    calls = []

    def objective() -> Tensor:
        losses = []
        for sx, sy, qx, qy in zip(episode.support_x, episode.support_y, episode.query_x, episode.query_y, strict=True):
            inner = F.mse_loss(torch.func.functional_call(copied, params, sx), sy)
            grads = torch.autograd.grad(inner, list(params.values()), create_graph=True)
            adapted = {n: p - 0.1 * g for (n, p), g in zip(params.items(), grads, strict=True)}
            losses.append(F.mse_loss(torch.func.functional_call(copied, adapted, qx), qy))
        return torch.stack(losses).mean()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        calls.append(loss.detach())
        return loss

    losses = []
    for _ in range(3):
        losses.append(float(trainer.step(episode).loss.mean()))
        optimizer.step(closure)
        assert_same(dict(net.named_parameters()), params, rtol=1e-6, atol=1e-9)
    assert len(calls) > 3
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < losses[0] / 2


@ASKING_MORE
@pytest.mark.parametrize("name", ["maml", "reptile", "sharp_maml"])
def test_a_stopped_run_goes_on_to_the_same_bits(name: str, make: Make, tmp_path: Path) -> None:
    def trainer(seed: int) -> il.MetaTrainer:
        torch.manual_seed(seed)
        halving = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda i: 0.5**i)
        net = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Linear(6, 3)).double()
        return il.MetaTrainer(net, small(name), make, scheduler=halving)

    def tasks(generator: torch.Generator) -> il.Episode:
        return vector_episode(3, seed=int(torch.randint(1000, (), generator=generator)))

    whole, part, resumed = (trainer(seed) for seed in (0, 0, 1))
    torch.manual_seed(5)
    whole.fit(tasks, 5, progress=False)
    torch.manual_seed(5)
    part.fit(tasks, 3, folder=tmp_path, progress=False)
    resumed.fit(tasks, 5, folder=tmp_path, resume=True, progress=False)
    assert_same(resumed.meta_params, whole.meta_params, rtol=0, atol=0)
    assert resumed.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_a_scheduler_changes_the_optimizer_inside() -> None:
    x = nn.Parameter(torch.ones(1))
    optimizer = il.SharpnessAware([x], sgd, radius=0.5)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def closure() -> Tensor:
        x.grad = torch.ones(1)
        return x.sum()

    optimizer.step(closure)
    assert float(x.detach()) == 1.0
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step(closure)
    assert float(x.detach()) == 0.0
    assert optimizer.state_dict()["param_groups"][0]["radius"] == 0.5


class Deaf(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        return None


def test_an_optimizer_that_never_asks_is_named() -> None:
    trainer = il.MetaTrainer(smooth_net(), il.maml(0.1), partial(Deaf, lr=0.1))
    with pytest.raises(RuntimeError, match=r"Deaf\.step did not call its closure"):
        trainer.step(vector_episode())
    assert trainer.iteration == 0


def test_an_inner_step_takes_its_gradient_uphill() -> None:
    """As written out: the gradient at the iterate, the one uphill of it, and a step from the iterate."""
    net, episode, radius = smooth_net(), vector_episode(1), 0.2
    x, y = episode.support_x[0], episode.support_y[0]
    adapted = il.adapt(net, il.sharp_maml(0.3, 2, inner_radius=radius), x, y)
    now = moving(dict(net.named_parameters()))

    def gradient(at: dict[str, Tensor]) -> dict[str, Tensor]:
        at = {n: p.clone().requires_grad_() for n, p in at.items()}
        loss = F.cross_entropy(torch.func.functional_call(net, at, x), y)
        return dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))

    for _ in range(2):
        grads = gradient(now)
        norm = torch.cat([g.flatten() for g in grads.values()]).norm()
        there = gradient({n: p + radius * grads[n] / norm for n, p in now.items()})
        now = {n: p - 0.3 * there[n] for n, p in now.items()}
    assert_same(adapted, now)
    plain = il.adapt(net, il.maml(0.3, 2), x, y)
    assert_same(il.adapt(net, il.sharp_maml(0.3, 2, inner_radius=0.0), x, y), plain, 0, 0)
    assert any(not torch.allclose(adapted[n], plain[n]) for n in plain)
    with pytest.raises(ValueError, match="radius is -1"):
        Uphill(-1.0)


def test_the_recipe_of_sharp_maml_perturbs_both_levels() -> None:
    config = recipe("omniglot-5w1s-sharp-maml").override(filters=4)
    trainer = make_trainer(config, il.nets.conv4(5, filters=4))
    assert isinstance(trainer.optimizer, il.SharpnessAware)
    assert trainer.optimizer.param_groups[0]["radius"] == 5e-4
    assert trainer.method.adaptation.gradient_at == Uphill(5e-4)
    assert isinstance(make_trainer(recipe("omniglot-5w1s-maml"), il.nets.conv4(5)).optimizer, torch.optim.Adam)
