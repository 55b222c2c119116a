"""Bayesian MAML: particles, the Stein step, what they say together, and the chaser loss."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    assert_same,
    finite_differences,
    own_loss,
    regression_episode,
    rng,
    smooth_net,
    trainable,
    vector_episode,
)
from torch import Tensor, nn
from torch.func import functional_call

import innerloop as il
from innerloop.inner.losses import each_particle, of_outputs
from innerloop.particles import by_particle


def several(particles: int = 3, **shape: int) -> nn.Module:
    torch.manual_seed(0)
    return il.nets.with_particles(lambda: smooth_net(**shape), particles)


def regression_net(particles: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return il.nets.mlp_with_particles(particles, hidden=(6,), activation="tanh").double()


def loop_step(
    thetas: list[Tensor], slopes: list[Tensor], lr: float, repulsion: float, weight_decay: float = 0.0
) -> list[Tensor]:
    """The Stein step of vectors, pair by pair; ``slopes`` are of each particle's own loss."""
    count = len(thetas)
    distances = sorted(float((a - b).square().sum()) for a, b in itertools.combinations(thetas, 2))
    h = distances[(len(distances) - 1) // 2] / math.log(count)
    moved = []
    for i in range(count):
        direction = torch.zeros_like(thetas[i])
        for j in range(count):
            k = torch.exp(-(thetas[i] - thetas[j]).square().sum() / h)
            slope_of_k = 2 * (thetas[i] - thetas[j]) * k / h  # with respect to particle j
            direction += k * (slopes[j] + weight_decay * thetas[j]) - repulsion * slope_of_k
        moved.append(thetas[i] - lr * direction / count)
    return moved


def drawn(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Two tensors for each of several particles."""
    g = rng(seed)
    return [
        {
            f"particles.{m}.{name}": torch.randn(shape, generator=g, dtype=torch.float64)
            for name, shape in SHAPES.items()
        }
        for m in range(count)
    ]


SHAPES = {"w": (2, 3), "b": (2,)}


def vector(params: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in params.values()])


# The rule


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_step_is_that_of_the_formula(count: int) -> None:
    particles, slopes = drawn(count), drawn(count, seed=1)
    params = {n: t for p in particles for n, t in p.items()}
    grads = {n: t / count for s in slopes for n, t in s.items()}  # of the mean of the losses
    rule = il.rules.svgd(0.3, repulsion=0.7, weight_decay=0.2)
    moved, _ = rule.step(params, grads, rule.init(params, {}))
    expected = loop_step([vector(p) for p in particles], [vector(s) for s in slopes], 0.3, 0.7, 0.2)
    for p, e in zip(particles, expected, strict=True):
        torch.testing.assert_close(vector({n: moved[n] for n in p}), e)


def test_the_repulsion_is_the_slope_of_the_kernel() -> None:
    """By finite differences, at a bandwidth that three equal distances leave as it is."""
    places = torch.eye(3, dtype=torch.float64)
    h = 2 / math.log(3)
    rule = il.rules.svgd(1.0)
    params = {f"particles.{m}.w": places[m] for m in range(3)}
    moved, _ = rule.step(params, {n: torch.zeros_like(p) for n, p in params.items()}, {})

    def kernel_sum(values: dict[str, Tensor]) -> float:
        return float(sum(torch.exp(-(places[0] - w).square().sum() / h) for w in values.values()))

    slopes = finite_differences(kernel_sum, params)
    torch.testing.assert_close(moved["particles.0.w"] - places[0], sum(slopes.values()) / 3, rtol=1e-7, atol=1e-9)


def test_one_particle_takes_the_step_of_gradient_descent() -> None:
    for names in (("w", "b"), ("particles.0.w", "particles.0.b")):
        params = {n: torch.randn(3) for n in names}
        grads = {n: torch.randn(3) for n in names}
        moved, _ = il.rules.svgd(0.3, repulsion=5.0, weight_decay=0.1).step(params, grads, {})
        assert_same(moved, il.rules.sgd(0.3, weight_decay=0.1).step(params, grads, {})[0], 0, 0)


def test_particles_at_one_place_stay_together_and_finite() -> None:
    params = {f"particles.{m}.w": torch.full((3,), 0.1, requires_grad=True) for m in range(4)}
    moved, _ = il.rules.svgd(0.3).step(params, {n: torch.full((3,), 0.25) for n in params}, {})
    for w in moved.values():
        torch.testing.assert_close(w, torch.full((3,), 0.1 - 0.3))
    grads = torch.autograd.grad(sum(w.sum() for w in moved.values()), list(params.values()))
    assert all(bool(g.isfinite().all()) for g in grads)


def test_particles_far_from_the_origin_lose_no_digits() -> None:
    particles = drawn(3)
    params = {n: t.float() for p in particles for n, t in p.items()}
    level = {n: torch.zeros_like(t) for n, t in params.items()}
    rule = il.rules.svgd(1.0)
    near, _ = rule.step(params, level, {})
    far = {n: t + 1024 for n, t in params.items()}
    moved, _ = rule.step(far, level, {})
    for n, p in params.items():
        torch.testing.assert_close(moved[n] - far[n], near[n] - p, rtol=0, atol=3e-4)


def test_steps_on_a_gaussian_find_its_mean_and_spread() -> None:
    """The particles come to a sample of the posterior: here N(2, 0.25), from the loss 2 (w - 2)² at temperature 1."""
    params = {f"particles.{m}.w": torch.tensor([m / 30.0], dtype=torch.float64) for m in range(30)}
    rule = il.rules.svgd(0.2)  # with 0.5 they never come to rest, and where they are depends on rounding
    for _ in range(300):
        grads = {n: 4 * (w - 2) / len(params) for n, w in params.items()}
        params, _ = rule.step(params, grads, {})
    sample = torch.cat(list(params.values()))
    assert float(sample.mean()) == pytest.approx(2, abs=1e-3)
    assert float(sample.std()) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("argument", ["lr", "repulsion", "weight_decay"])
def test_negative_settings_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} is -1"):
        il.rules.svgd(**{"lr": 0.1, argument: -1.0})


def test_parts_that_do_not_correspond_are_refused() -> None:
    assert by_particle(["a.particles.0.w", "a.particles.1.w"]) == [["a.particles.0.w"], ["a.particles.1.w"]]
    with pytest.raises(ValueError, match=r"the same ones of every particle.*particles\.\*\.head"):
        il.meta_gradient(several(), il.bmaml(adapt="particles.*.weight particles.0.0.bias"), vector_episode())


# The network


def test_particles_start_apart_and_say_the_mean_of_their_probabilities() -> None:
    net, x = several(), torch.randn(4, 4, dtype=torch.float64)
    assert not any(torch.equal(a[0].weight, b[0].weight) for a, b in itertools.combinations(net.particles, 2))
    mean = torch.stack([particle(x).softmax(-1) for particle in net.particles]).mean(0)
    torch.testing.assert_close(net(x).exp(), mean)
    values = regression_net()
    torch.testing.assert_close(values(x[:, :1]), torch.stack([p(x[:, :1]) for p in values.particles]).mean(0))


@pytest.mark.parametrize(("options", "words"), [({"particles": 0}, "particles is 0"), ({"outputs": "odds"}, "odds")])
def test_impossible_networks_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        il.nets.with_particles(smooth_net, **{"particles": 2, **options})


def test_the_inner_loss_is_the_mean_of_the_particles() -> None:
    from innerloop.inner.model import StatelessModel

    net, x, y = several(), torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    model = StatelessModel(net)
    loss = each_particle(model, F.cross_entropy, model.initial, x, y)
    torch.testing.assert_close(loss, torch.stack([F.cross_entropy(p(x), y) for p in net.particles]).mean())
    assert not torch.isclose(loss, of_outputs(model, F.cross_entropy, model.initial, x, y), rtol=1e-3)
    plain = StatelessModel(smooth_net())
    assert torch.equal(
        each_particle(plain, F.cross_entropy, plain.initial, x, y),
        of_outputs(plain, F.cross_entropy, plain.initial, x, y),
    )


# The method


@pytest.mark.parametrize("steps", [1, 3])
def test_one_particle_is_maml(steps: int) -> None:
    net, episode = several(1), vector_episode()
    grads, info = il.meta_gradient(net, il.bmaml(0.3, steps, repulsion=4.0), episode)
    expected, observed = il.meta_gradient(net.particles[0], il.maml(0.3, steps), episode)
    assert_same({n.removeprefix("particles.0."): g for n, g in grads.items()}, expected)
    torch.testing.assert_close(info.loss, observed.loss)
    assert_same(
        il.meta_gradient(net.particles[0], il.bmaml(0.3, steps), episode)[0],  # nor does it need the wrapper
        expected,
        0,
        0,
    )


def by_hand(
    net: nn.Module, params: dict[str, Tensor], x: Tensor, y: Tensor, lr: float, repulsion: float
) -> list[Tensor]:
    """The particles, as vectors, after one step on a support set."""
    thetas, slopes = [], []
    for m, particle in enumerate(net.particles):
        own = {n.removeprefix(f"particles.{m}."): t for n, t in params.items() if n.startswith(f"particles.{m}.")}
        loss = F.cross_entropy(functional_call(particle, own, (x,)), y)
        slopes.append(vector(dict(enumerate(torch.autograd.grad(loss, list(own.values()))))))
        thetas.append(vector(own).detach())
    return loop_step(thetas, slopes, lr, repulsion)


def test_adapting_is_the_formula_and_the_loss_is_of_the_posterior_predictive() -> None:
    net, episode = several(), vector_episode(1)
    x, y = episode.support_x[0], episode.support_y[0]
    adapted = il.adapt(net, il.bmaml(0.5, repulsion=0.1), x, y)
    expected = by_hand(net, trainable(net), x, y, 0.5, 0.1)
    for m, e in enumerate(expected):
        torch.testing.assert_close(vector({n: t for n, t in adapted.items() if f"s.{m}." in n}), e)
    _, info = il.meta_gradient(net, il.bmaml(0.5, repulsion=0.1), episode)
    probabilities = torch.stack(
        [
            functional_call(
                p, {n[len("particles.0.") :]: t for n, t in adapted.items() if f"s.{m}." in n}, episode.query_x[0]
            )
            .softmax(-1)
            .gather(1, episode.query_y[0][:, None])
            for m, p in enumerate(net.particles)
        ]
    )
    torch.testing.assert_close(info.loss[0], -probabilities.mean(0).log().mean().detach())


def test_the_meta_gradient_is_that_of_finite_differences() -> None:
    """Through the kernel and its bandwidth, too."""
    net, episode = several(features=2, ways=2, hidden=2), vector_episode(1, features=2, ways=2)
    method = il.bmaml(0.5, 2, repulsion=0.3, weight_decay=0.1)
    grads, _ = il.meta_gradient(net, method, episode)
    assert_same(grads, finite_differences(own_loss(net, method, episode), trainable(net)), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("leader_steps", [0, 2])
@pytest.mark.parametrize("regression", [True, False])
def test_serial_is_batched_is_chunked(regression: bool, leader_steps: int) -> None:
    net, episode = (regression_net(), regression_episode()) if regression else (several(), vector_episode())
    loss_fn = F.mse_loss if regression else F.cross_entropy
    method = il.bmaml(0.1, 2, repulsion=0.1, leader_steps=leader_steps)
    grads, info = il.meta_gradient(net, method, episode, loss_fn, execution="serial")
    for execution in ("batched", 1, 3, "auto"):
        others, observed = il.meta_gradient(net, method, episode, loss_fn, execution=execution)
        assert_same(others, grads)
        torch.testing.assert_close(observed.loss, info.loss)
    if not leader_steps:
        for estimator in (il.checkpointed(), il.mixed_mode()):
            other = il.bmaml(0.1, 2, repulsion=0.1, meta_gradient=estimator)
            assert_same(il.meta_gradient(net, other, episode, loss_fn)[0], grads)


def spread(params: dict[str, Tensor]) -> float:
    groups = [vector({n: params[n] for n in names}) for names in by_particle(params)]
    return min(float((a - b).detach().norm()) for a, b in itertools.combinations(groups, 2))


def test_particles_stay_distinct() -> None:
    """Even where all see the same data for long; without repulsion they come nearer to one another."""
    net, episode = regression_net(4), regression_episode(1)
    x, y = episode.support_x[0], episode.support_y[0]
    start = spread(trainable(net))
    apart, drawn_in = (
        spread(il.adapt(net, il.bmaml(0.1, test_steps=50, repulsion=rho, weight_decay=0.5), x, y, F.mse_loss))
        for rho in (4.0, 0.0)
    )
    assert apart > start / 2
    assert apart > 2 * drawn_in


def test_a_part_of_every_particle_can_be_adapted() -> None:
    net, episode = several(), vector_episode(1)
    method = il.bmaml(0.5, adapt="particles.*.2.*")
    adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
    for n, p in net.named_parameters():
        assert torch.equal(adapted[n], p) == (".0." in n.removeprefix("particles.").removeprefix(n[10:11]))


# The chaser loss


def test_the_chaser_of_one_step_on_a_quadratic_is_its_closed_form() -> None:
    """f(x) = w x with x = 1: each step moves w by 2 α (mean of y - w), and the leader's is on support and query."""
    net = nn.Linear(1, 1, bias=False).double()
    one = torch.ones(1, 2, 1, dtype=torch.float64)
    episode = il.Episode(one, one * 3, one, one * 7)
    method = il.maml(0.1, meta_gradient=il.chaser())
    grads, info = il.meta_gradient(net, method, episode, F.mse_loss)
    w = net.weight.item()
    follower = w + 0.2 * (3 - w)
    leader = follower + 0.2 * (5 - follower)
    assert float(info.loss) == pytest.approx((follower - leader) ** 2)
    assert float(grads["weight"]) == pytest.approx(2 * (follower - leader) * 0.8)


def test_the_chaser_is_exact_with_its_leader_held() -> None:
    net, episode = several(2, features=2, ways=2, hidden=2), vector_episode(2, features=2, ways=2)
    method = il.bmaml(0.4, 2, repulsion=0.2, leader_steps=3)
    grads, info = il.meta_gradient(net, method, episode)
    longer = il.bmaml(0.4, 2, repulsion=0.2)

    def followers(values: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        return [
            il.adapt(net, longer, x, y, meta_params=values)
            for x, y in zip(episode.support_x, episode.support_y, strict=True)
        ]

    leaders = [
        il.adapt(
            net,
            il.bmaml(0.4, 3, repulsion=0.2),
            torch.cat([episode.support_x[i], episode.query_x[i]]),
            torch.cat([episode.support_y[i], episode.query_y[i]]),
            meta_params=follower,
        )
        for i, follower in enumerate(followers(trainable(net)))
    ]

    def distance(values: dict[str, Tensor]) -> float:
        pairs = zip(followers(values), leaders, strict=True)
        return float(sum((f[n] - at[n]).square().sum() for f, at in pairs for n in f) / 2)

    assert float(info.loss.mean()) == pytest.approx(distance(trainable(net)))
    assert_same(grads, finite_differences(distance, trainable(net)), rtol=1e-5, atol=1e-8)


def test_the_chaser_refuses_what_it_cannot_score() -> None:
    with pytest.raises(ValueError, match="leader_steps is 0"):
        il.chaser(0)
    adaptation = il.Adaptation(il.rules.sgd(0.1), 2, objective=lambda steps: (0.5,) * (steps + 1))
    with pytest.raises(ValueError, match="objective last_step"):
        il.meta_gradient(smooth_net(), il.Method(adaptation, il.chaser()), vector_episode())


def test_it_learns_to_adapt_to_sinusoids() -> None:
    """By the chaser loss; by the loss of the predictions the contract suite sees it, with one particle."""
    torch.manual_seed(0)
    net = il.nets.mlp_with_particles(3, hidden=(32, 32))
    method = il.bmaml(0.05, 1, repulsion=0.001, leader_steps=1, test_steps=3)
    tasks = il.data.sinusoids().episodes(10, 10, 10)
    trainer = il.MetaTrainer(net, method, lambda p: torch.optim.Adam(p, 5e-3), loss_fn=F.mse_loss)
    untrained = trainer.evaluate(tasks, tasks=60).mean
    trainer.fit(tasks, 120, progress=False)
    trained = trainer.evaluate(tasks, tasks=60)
    assert trained.mean < untrained / 2
    assert trained.mean < trained.per_step[0] / 1.5


def test_a_learner_with_particles_is_saved_and_loaded(tmp_path: Path) -> None:
    spec = {"name": "conv4_with_particles", "arguments": {"particles": 2, "ways": 3, "filters": 4}}
    learner = il.Learner(il.nets.NETS[spec["name"]](**spec["arguments"]), il.bmaml(0.3), net_spec=spec)
    x, y, query = torch.rand(6, 1, 28, 28), torch.arange(6) % 3, torch.rand(4, 1, 28, 28)
    learner.save(tmp_path)
    loaded = il.Learner.load(tmp_path)
    assert torch.equal(loaded.adapt(x, y).predict_proba(query), learner.adapt(x, y).predict_proba(query))
