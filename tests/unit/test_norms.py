"""The normalisation modes against the forward passes that they stand for, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, finite_differences, own_loss, rng, trainable, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.meta import Meta
from innerloop.inner.model import StatelessModel
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import OneByOne, Together

METHOD = il.maml(0.2, 2)
MODES = ["transductive", "inductive", "running"]


def net() -> nn.Module:
    """With stored statistics and affine parameters that are not the default."""
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for t in (module[1].weight, module[1].bias, module[1].running_mean):
            t.normal_()
        module[1].running_var.uniform_(0.5, 2)
    return module


def forward(module: nn.Module, p: dict[str, Tensor], x: Tensor, *, stored: bool = False) -> Tensor:
    """The net's forward pass with batch statistics, or the stored ones."""
    h = F.linear(x, p["0.weight"], p["0.bias"])
    norm = module[1]
    statistics = (norm.running_mean, norm.running_var) if stored else (None, None)
    h = F.batch_norm(h, *statistics, p["1.weight"], p["1.bias"], training=not stored, eps=norm.eps)
    return F.linear(torch.tanh(h), p["3.weight"], p["3.bias"])


def adapted_by_hand(module: nn.Module, x: Tensor, y: Tensor, *, stored: bool) -> dict[str, Tensor]:
    now = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    for _ in range(2):
        loss = F.cross_entropy(forward(module, now, x, stored=stored), y)
        grads = torch.autograd.grad(loss, list(now.values()))
        now = {n: (p - 0.2 * g).detach().requires_grad_() for (n, p), g in zip(now.items(), grads, strict=True)}
    return {n: p.detach() for n, p in now.items()}


def outputs_by_hand(module: nn.Module, norm: str, params: dict[str, Tensor], support: Tensor, query: Tensor) -> Tensor:
    if norm == "inductive":
        return torch.stack([forward(module, params, torch.cat([support, q[None]]))[-1] for q in query])
    return forward(module, params, query, stored=norm == "running")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", MODES)
def test_a_mode_is_its_forward_pass(norm: str, training: bool) -> None:
    module, episode = net().train(training), vector_episode(3)
    result = il.evaluate(module, METHOD, lambda generator: episode, tasks=3, norm=norm)
    learner = il.Learner(module, METHOD, norm=norm)
    for i in range(3):
        x, y, query = episode.support_x[i], episode.support_y[i], episode.query_x[i]
        params = adapted_by_hand(module, x, y, stored=norm == "running")
        assert_same(il.adapt(module, METHOD, x, y, norm=norm), params)
        expected = outputs_by_hand(module, norm, params, x, query)
        torch.testing.assert_close(learner.adapt(x, y).outputs(query), expected)
        torch.testing.assert_close(result.loss[i, -1], F.cross_entropy(expected, episode.query_y[i]))
        right = (expected.argmax(1) == episode.query_y[i]).float().mean()
        torch.testing.assert_close(result.accuracy[i, -1], right)


@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("norm", MODES)
def test_the_meta_objective_is_of_the_same_mode(norm: str, execution: str) -> None:
    module, episode = net(), vector_episode(2)
    _, info = il.meta_gradient(module, METHOD, episode, norm=norm, execution=execution)
    for i in range(2):
        params = adapted_by_hand(module, episode.support_x[i], episode.support_y[i], stored=norm == "running")
        outputs = outputs_by_hand(module, norm, params, episode.support_x[i], episode.query_x[i])
        torch.testing.assert_close(info.loss[i], F.cross_entropy(outputs, episode.query_y[i]))


def test_the_modes_differ() -> None:
    module, episode = net(), vector_episode(3)
    results = [il.evaluate(module, METHOD, lambda generator: episode, tasks=3, norm=norm).loss for norm in MODES]
    assert not torch.allclose(results[0], results[1], rtol=1e-3)
    assert not torch.allclose(results[0], results[2], rtol=1e-3)
    assert not torch.allclose(results[1], results[2], rtol=1e-3)


def query_outputs(module: nn.Module, norm: str, episode: il.Episode, *, batched: bool) -> Tensor:
    """The outputs ``[T, Q, C]`` for the query sets after adaptation."""
    model = StatelessModel(module, norm)
    problem = Problem(model, F.cross_entropy, Together() if batched else OneByOne())
    support = Support(episode.support_x, episode.support_y)
    last, _ = InnerLoop(problem, METHOD.adaptation, Meta(model.initial), support).run(Track.NOTHING)
    with torch.no_grad():
        return problem.query(last.adapted, last.fixed, episode)[1]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("norm", MODES)
def test_whether_a_prediction_depends_on_the_other_queries(norm: str, batched: bool) -> None:
    module, episode = net(), vector_episode(2)
    changed = episode.map(Tensor.clone)
    changed.query_x[:, 1:] = 3 * changed.query_x[:, 1:] + 1
    fewer = il.Episode(episode.support_x, episode.support_y, episode.query_x[:, :1], episode.query_y[:, :1])
    first = query_outputs(module, norm, episode, batched=batched)[:, 0]
    with_others = query_outputs(module, norm, changed, batched=batched)[:, 0]
    if norm == "transductive":
        assert not torch.allclose(first, with_others, rtol=1e-3)
        return
    torch.testing.assert_close(with_others, first, rtol=1e-12, atol=1e-14)
    alone = query_outputs(module, norm, fewer, batched=batched)[:, 0]
    torch.testing.assert_close(alone, first, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", ["inductive", "running"])
def test_a_predictor_gives_a_query_the_same_bits_in_any_company(norm: str) -> None:
    module, episode = net(), vector_episode(1, queries=8)
    predictor = il.Learner(module, METHOD, norm=norm).adapt(episode.support_x[0], episode.support_y[0])
    query = episode.query_x[0]
    together = predictor.outputs(query)
    order = torch.randperm(8, generator=rng())
    torch.testing.assert_close(predictor.outputs(query[order]), together[order], rtol=1e-13, atol=1e-14)
    for j in range(8):
        torch.testing.assert_close(predictor.outputs(query[j : j + 1])[0], together[j], rtol=1e-13, atol=1e-14)


def test_a_deployed_learner_is_inductive_unless_told_otherwise() -> None:
    assert il.Learner(net(), METHOD).norm == "inductive"


@pytest.mark.parametrize("norm", MODES)
def test_without_batch_norm_the_modes_are_one(norm: str) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    episode = vector_episode(2)
    one, _ = il.meta_gradient(module, METHOD, episode)
    other, _ = il.meta_gradient(module, METHOD, episode, norm=norm)
    assert_same(one, other, 0, 0)


def test_running_statistics_that_are_not_stored_are_asked_for() -> None:
    episode = vector_episode(2)
    with pytest.raises(ValueError, match=r"norm='running' needs batch-norm layers that store statistics"):
        il.meta_gradient(il.nets.conv4(5, filters=2), METHOD, episode, norm="running")
    with pytest.raises(ValueError, match="choose 'transductive' or 'inductive'"):
        il.Learner(il.nets.conv4(5, filters=2), METHOD, norm="running")


def test_running_statistics_are_constants() -> None:
    """The stored statistics take no part in the meta-gradient, which is exact."""
    module, episode = net(), vector_episode(2)
    grads, _ = il.meta_gradient(module, METHOD, episode, norm="running")
    slopes = finite_differences(own_loss(module, METHOD, episode, norm="running"), trainable(module))
    assert_same(grads, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_stored_statistics_do_not_matter_but_in_their_own_mode(norm: str) -> None:
    module, episode = net(), vector_episode(2)
    one, _ = il.meta_gradient(module, METHOD, episode, norm=norm)
    module[1].running_mean.fill_(100.0)
    module[1].running_var.fill_(0.01)
    other, _ = il.meta_gradient(module, METHOD, episode, norm=norm)
    assert_same(one, other, 0, 0)
    far, _ = il.meta_gradient(module, METHOD, episode, norm="running")
    assert not torch.allclose(far["3.weight"], one["3.weight"], rtol=1e-3)


@pytest.mark.parametrize("layer", [nn.InstanceNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("tracking", [True, False])
def test_norm_layers_of_images(layer, tracking: bool) -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False),
        layer(2, track_running_stats=tracking, affine=True),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    g = rng()
    x = torch.randn(3, 10, 1, 4, 4, generator=g, dtype=torch.float64)
    y = torch.randint(3, (3, 10), generator=g)
    episode = il.Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])
    before = {n: t.clone() for n, t in module.state_dict().items()}
    for norm in ("transductive", "inductive"):
        serial, _ = il.meta_gradient(module, METHOD, episode, norm=norm, execution="serial")
        batched, _ = il.meta_gradient(module, METHOD, episode, norm=norm, execution="batched")
        assert_same(serial, batched)
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
