"""Warp layers, T-Net and WarpGrad, beside MAML and loops written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    assert_exact,
    assert_same,
    image_episode,
    rng,
    smooth_net,
    vector_episode,
)
from torch import Tensor, nn
from torch.func import functional_call

import innerloop as il
from innerloop.nets.warps import Residual, Warped

KINDS = pytest.mark.parametrize("warp", ["linear", "residual"])


def spread(net: nn.Module) -> nn.Module:
    """Warp layers that are not the identity any more."""
    g = rng(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "warp." in name:
                p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return net


def of_the_layers(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the warp layers, and by the names of the network that they were put into."""
    return {n.replace("layer.", ""): t for n, t in values.items() if "warp." not in n}


# The layers


@KINDS
def test_warp_layers_are_the_identity_at_first_and_not_later(warp: str) -> None:
    for net, x in (
        (il.nets.conv4(5, filters=4), torch.rand(3, 1, 28, 28)),
        (il.nets.mlp(3, 2), torch.rand(3, 3)),
        (nn.Conv1d(2, 3, 3), torch.rand(4, 2, 9)),
        (nn.Linear(3, 3), torch.rand(3)),
    ):
        warped = il.nets.with_warps(net, warp)
        torch.testing.assert_close(warped(x), net(x), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(spread(warped)(x), net(x), rtol=1e-2)


@KINDS
def test_the_network_is_left_as_it_is(warp: str) -> None:
    net = il.nets.conv4(5, filters=4)
    warped = il.nets.with_warps(net, warp)
    assert not any(isinstance(m, Warped) for m in net.modules())
    assert not {id(p) for p in net.parameters()} & {id(p) for p in warped.parameters()}
    own = {n: p for n, p in warped.named_parameters() if "warp." not in n}
    assert_same({n.replace("layer.", ""): p for n, p in own.items()}, dict(net.named_parameters()), 0, 0)


def test_the_layers_have_the_type_of_those_before_them() -> None:
    warped = il.nets.with_warps(il.nets.conv4(5, filters=4).double(), "residual")
    assert {p.dtype for p in warped.parameters()} == {torch.float64}
    assert isinstance(warped.body[1].conv.warp, Residual)
    assert warped.body[1].conv.warp.layer.weight.shape == (4, 4, 3, 3)
    assert warped.head.warp.layer.weight.shape == (5, 5)


def test_a_layer_that_is_shared_has_one_warp_layer() -> None:
    shared = nn.Linear(4, 4)
    warped = il.nets.with_warps(nn.Sequential(shared, nn.Tanh(), shared))
    assert warped[0] is warped[2]
    assert [n for n, _ in warped.named_parameters()] == ["0.layer.weight", "0.layer.bias", "0.warp.weight"]


def test_only_the_named_layers_have_one() -> None:
    warped = il.nets.with_warps(il.nets.conv4(5, filters=4), at="body.0.* body.2.conv")
    assert [n for n, _ in warped.named_parameters() if "warp." in n] == [f"body.{i}.conv.warp.weight" for i in (0, 2)]


def test_impossible_warps_are_refused() -> None:
    with pytest.raises(ValueError, match="warp is 'cubic'; choose one of 'linear', 'residual'"):
        il.nets.with_warps(smooth_net(), "cubic")
    for net, at in ((smooth_net(), "1"), (nn.Tanh(), "*")):
        with pytest.raises(ValueError, match="match no linear or convolutional layer of"):
            il.nets.with_warps(net, at=at)
    with pytest.raises(ValueError, match=r"'!\*warp\.\*' matches none of the parameters"):
        il.meta_gradient(smooth_net(), il.t_net(), vector_episode())


# T-Net


@KINDS
@pytest.mark.parametrize("execution", ["serial", "batched"])
def test_with_warp_layers_that_do_not_learn_it_is_maml(execution: str, warp: str) -> None:
    net, episode = il.nets.conv4(5, filters=4).double(), image_episode(2)
    warped = il.nets.with_warps(net, warp)
    grads, info = il.meta_gradient(warped, il.t_net(0.3, 2), episode, execution=execution)
    expected, observed = il.meta_gradient(net, il.maml(0.3, 2), episode)
    assert_same(of_the_layers(grads), expected)
    torch.testing.assert_close(info.loss, observed.loss)
    assert all(float(g.abs().max()) > 0 for n, g in grads.items() if "warp." in n)
    adapted = il.adapt(warped, il.t_net(0.3, 2), episode.support_x[0], episode.support_y[0])
    assert_same(of_the_layers(adapted), il.adapt(net, il.maml(0.3, 2), episode.support_x[0], episode.support_y[0]))


@KINDS
def test_the_meta_gradient_of_t_net_is_exact_in_the_warp_layers(warp: str) -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double()
    assert_exact(spread(il.nets.with_warps(net, warp)), il.t_net(0.3, 2), vector_episode(2, features=3, ways=2))


def test_a_step_is_transformed_by_the_learned_metric() -> None:
    """Of one layer y = T W x: the features move by T T^T as far as without T, for the same slope of the loss."""
    net, x = nn.Linear(3, 2, bias=False).double(), torch.randn(1, 3).double()
    warped = spread(il.nets.with_warps(net))
    slope = torch.tensor([[1.0, -2.0]]).double()

    def linear(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * slope).sum()

    adapted = il.adapt(warped, il.t_net(0.1), x, torch.zeros(1, 2).double(), linear)
    moved = functional_call(warped, adapted, (x,)) - warped(x)
    t = warped.warp.weight
    torch.testing.assert_close(moved, -0.1 * slope @ (t @ t.T) * x.square().sum())


# WarpGrad


def along_the_trajectory(net: nn.Module, episode: il.Episode, lr: float, steps: int) -> dict[str, Tensor]:
    """The gradient of the mean over steps of the query loss after a step from a constant iterate, written out."""
    params = dict(net.named_parameters())
    warps = {n: p for n, p in params.items() if "warp." in n}
    losses = []
    for i in range(episode.tasks):
        now = {n: p.detach() for n, p in params.items() if "warp." not in n}
        for _ in range(steps):
            leaves = {n: p.detach().requires_grad_() for n, p in now.items()}
            loss = F.cross_entropy(
                functional_call(net, {**warps, **leaves}, (episode.support_x[i],)), episode.support_y[i]
            )
            grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            now = {n: leaves[n].detach() - lr * g for n, g in zip(leaves, grads, strict=True)}
            outputs = functional_call(net, {**warps, **now}, (episode.query_x[i],))
            losses.append(F.cross_entropy(outputs, episode.query_y[i]))
    grads = torch.autograd.grad(torch.stack(losses).mean(), list(warps.values()))
    return dict(zip(warps, grads, strict=True))


INITIALISATIONS = {"unrolled": il.unrolled(), "first_order": il.first_order(), "displacement": il.displacement()}


@KINDS
@pytest.mark.parametrize("execution", ["serial", "batched", 2])
@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_warp_layers_learn_along_the_trajectory(initialisation: str, execution, warp: str) -> None:
    net, episode = spread(il.nets.with_warps(smooth_net(), warp)), vector_episode(3)
    estimator = INITIALISATIONS[initialisation]
    grads, info = il.meta_gradient(net, il.warpgrad(0.3, 4, meta_gradient=estimator), episode, execution=execution)
    expected = along_the_trajectory(net, episode, 0.3, 4)
    assert_same({n: grads[n] for n in expected}, expected)
    alone, observed = il.meta_gradient(net, il.Method(il.t_net(0.3, 4).adaptation, estimator), episode)
    assert_same(
        {n: g for n, g in grads.items() if n not in expected}, {n: alone[n] for n in alone if n not in expected}
    )
    torch.testing.assert_close(info.loss, observed.loss)
    assert all(not torch.allclose(alone[n], g, rtol=1e-2) for n, g in expected.items())


@pytest.mark.parametrize("steps", [0, 1])
def test_warpgrad_of_one_step_is_t_net(steps: int) -> None:
    net, episode = spread(il.nets.with_warps(smooth_net(), "residual")), vector_episode(3)
    grads, _ = il.meta_gradient(net, il.warpgrad(0.3, steps), episode)
    assert_same(grads, il.meta_gradient(net, il.t_net(0.3, steps), episode)[0])


def test_what_a_rule_learns_is_taught_with_the_initialisation() -> None:
    net, episode = spread(il.nets.with_warps(smooth_net())), vector_episode(2)
    adaptation = il.Adaptation(il.rules.learned_sgd(0.3, momentum=0.5), 3, adapt="* !*warp.*")
    grads, _ = il.meta_gradient(net, il.Method(adaptation, il.trajectory(il.unrolled())), episode)
    expected, _ = il.meta_gradient(net, il.Method(adaptation, il.unrolled()), episode)
    others = [n for n in grads if "warp." not in n or n.startswith("method.")]
    assert_same({n: grads[n] for n in others}, {n: expected[n] for n in others})
    assert not torch.allclose(grads["0.warp.weight"], expected["0.warp.weight"], rtol=1e-2)


def test_the_trajectory_needs_queries() -> None:
    net, episode = il.nets.with_warps(smooth_net()), vector_episode(2, queries=0)
    with pytest.raises(ValueError, match="query set is empty"):
        il.meta_gradient(net, il.warpgrad(meta_gradient=il.displacement()), episode)


@pytest.mark.parametrize("warp", ["linear", "residual"])
def test_a_learner_keeps_the_warp_layers(warp: str, tmp_path) -> None:
    net = spread(il.nets.mlp_with_warps(warp, inputs=4, outputs=3))
    method, x = il.warpgrad(0.1, 2), torch.randn(6, 4, generator=rng())
    spec = {"name": "mlp_with_warps", "arguments": {"warp": warp, "inputs": 4, "outputs": 3}}
    il.Learner(net, method, net_spec=spec).save(tmp_path / "learner")
    loaded = il.Learner.load(tmp_path / "learner")
    labels = torch.arange(6) % 3
    expected = functional_call(net, il.adapt(net, method, x, labels), (x,))
    torch.testing.assert_close(loaded.adapt(x, labels).outputs(x), expected)
