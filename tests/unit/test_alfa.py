"""ALFA's generated rates and decays, beside gradient descent and a loop written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from core_helpers import (
    assert_exact,
    assert_is,
    assert_same,
    meta_params_of,
    plain_loss,
    rng,
    smooth_net,
    trainable,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il


def spread(net: nn.Module, method: il.Method) -> dict[str, Tensor]:
    """The generator away from its constant outputs, and the scales from each other."""
    g, meta = rng(1), meta_params_of(trainable(net), method)
    return {
        n: t + 0.3 * torch.randn(t.shape, generator=g, dtype=t.dtype) if n.startswith("method.") else t
        for n, t in meta.items()
    }


def test_alfa_without_decay_begins_as_maml() -> None:
    assert_is(il.alfa(0.3, 3, inner_decay=0.0, test_steps=5), il.maml(0.3, 3, test_steps=5))


def test_alfa_with_decay_begins_as_gradient_descent_with_decay() -> None:
    decayed = il.Adaptation(il.rules.sgd(0.3, weight_decay=0.2), 3)
    assert_is(il.alfa(0.3, 3, inner_decay=0.2), il.Method(decayed, il.unrolled()))


@pytest.mark.parametrize("adapt", ["*", "0.weight 2.*"])
def test_a_generator_with_constant_outputs_is_gradient_descent(adapt: str) -> None:
    """Outputs other than 1, which are the rate's multiple and the decay's."""
    net, episode, method = smooth_net(), vector_episode(), il.alfa(0.1, 3, inner_decay=0.3, adapt=adapt)
    meta = meta_params_of(trainable(net), method)
    layers = len(meta["method.alfa.out.bias"]) // 2
    assert layers == (4 if adapt == "*" else 3)
    meta["method.alfa.out.bias"] = torch.tensor([3.0] * layers + [6.0] * layers, dtype=torch.float64)
    grads, _ = il.meta_gradient(net, method, episode, meta_params=meta)
    plain = il.Method(il.Adaptation(il.rules.sgd(0.3, weight_decay=0.6), 3, adapt=adapt), il.unrolled())
    expected, _ = il.meta_gradient(net, plain, episode)
    assert_same({n: grads[n] for n in expected}, expected)


def test_the_update_is_that_of_a_network_written_out() -> None:
    net, episode, method = smooth_net(hidden=3), vector_episode(2), il.alfa(0.3, 2, inner_decay=0.1)
    meta = spread(net, method)
    size, names = 8, [n for n, _ in net.named_parameters()]
    layers = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size)).double()
    with torch.no_grad():
        for layer, part in ((layers[0], "hidden"), (layers[2], "out")):
            layer.weight.copy_(meta[f"method.alfa.{part}.weight"])
            layer.bias.copy_(meta[f"method.alfa.{part}.bias"])

    def step(
        params: dict[str, Tensor], grads: dict[str, Tensor], state: None, k: int
    ) -> tuple[dict[str, Tensor], None]:
        rates, decays = layers(torch.stack([t[n].mean() for t in (params, grads) for n in names])).chunk(2)
        new = {}
        for i, n in enumerate(names):
            rate = rates[i] * meta[f"method.alfa.scale.lr.{n}"][min(k, 2) - 1]
            decay = decays[i] * meta[f"method.alfa.scale.decay.{n}"][min(k, 2) - 1]
            new[n] = params[n] - decay * params[n] - rate * grads[n]
        return new, None

    for steps in (1, 2, 4):
        longer = replace(method, adaptation=replace(method.adaptation, steps=steps))
        _, info = il.meta_gradient(net, longer, episode, meta_params=meta)
        expected = plain_loss(net, trainable(net), episode, step, steps)
        torch.testing.assert_close(info.loss.mean(), expected.detach())


def test_the_meta_gradient_is_exact_in_all_that_is_learned() -> None:
    net, method = nn.Linear(2, 2).double(), il.alfa(0.3, 2, inner_decay=0.1)
    episode = vector_episode(2, features=2, ways=2)
    meta = spread(net, method)
    assert_exact(net, method, episode, meta)
    grads, _ = il.meta_gradient(net, method, episode, meta_params=meta)
    assert all(float(grads[n].abs().max()) > 0 for n in grads)


def test_the_generator_is_the_same_each_time() -> None:
    one, other = (meta_params_of(trainable(smooth_net()), il.alfa()) for _ in range(2))
    names = [n for n in one if n.startswith("method.")]
    assert_same({n: one[n] for n in names}, {n: other[n] for n in names}, 0, 0)
    assert one["method.alfa.hidden.weight"].std() > 0.1


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="weight_decay is -1"):
        il.alfa(inner_decay=-1.0)
    with pytest.raises(ValueError, match="steps is -1"):
        il.rules.alfa(0.1, steps=-1)
