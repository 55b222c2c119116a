"""Each helper that asserts something must be able to fail."""

from __future__ import annotations

import pytest
import torch
from core_helpers import (
    assert_exact,
    assert_is,
    assert_no_graph,
    assert_same,
    assert_untouched,
    build,
    finite_differences,
    plain_loss,
    sgd_step,
    smooth_net,
    snapshot,
    trainable,
    vector_episode,
)
from torch import nn

import innerloop as il


def test_finite_differences_find_a_known_slope_and_tell_a_wrong_one() -> None:
    at = {"a": torch.tensor([1.0, 2.0], dtype=torch.float64), "b": torch.tensor(3.0, dtype=torch.float64)}
    slopes = finite_differences(lambda p: float((p["a"] ** 2).sum() * p["b"]), at)
    right = {"a": 2 * at["a"] * at["b"], "b": (at["a"] ** 2).sum()}
    assert_same(slopes, right, rtol=1e-8)
    with pytest.raises(AssertionError):
        assert_same(slopes, {"a": at["a"] * at["b"], "b": right["b"]}, rtol=1e-8)


def test_finite_differences_leave_the_point_as_it_was() -> None:
    at = {"a": torch.tensor([0.1, 0.2], dtype=torch.float64)}
    finite_differences(lambda p: float(p["a"].sum()), at)
    assert at["a"].tolist() == [0.1, 0.2]


def test_assert_same_notices_names_values_and_types() -> None:
    one = {"a": torch.zeros(2)}
    assert_same(one, {"a": torch.zeros(2)}, 0, 0)
    for other in ({"b": torch.zeros(2)}, {"a": torch.full((2,), 1e-3)}, {"a": torch.zeros(2).double()}):
        with pytest.raises(AssertionError):
            assert_same(one, other)


def test_plain_loss_depends_on_the_inner_steps() -> None:
    net, episode = smooth_net(), vector_episode(2)
    at = trainable(net)
    none, one = (float(plain_loss(net, at, episode, sgd_step(0.5), k).detach()) for k in (0, 1))
    by_hand = torch.stack(
        [nn.functional.cross_entropy(net(episode.query_x[i]), episode.query_y[i]) for i in (0, 1)]
    ).mean()
    assert none == pytest.approx(float(by_hand.detach()), rel=1e-12)
    assert one != pytest.approx(none, rel=1e-3)


def spoil_weight(net: nn.Module) -> None:
    net[0].weight.data[0, 0] += 1e-6


def spoil_statistics(net: nn.Module) -> None:
    net[1].running_mean[0] += 1e-6


def spoil_counter(net: nn.Module) -> None:
    net[1].num_batches_tracked += 1


def spoil_mode(net: nn.Module) -> None:
    net[1].eval()


def spoil_grad(net: nn.Module) -> None:
    net[0].weight.grad = torch.zeros(2, 2)


def spoil_identity(net: nn.Module) -> None:
    net[0].weight = nn.Parameter(net[0].weight.detach().clone())


def spoil_requires(net: nn.Module) -> None:
    net[0].weight.requires_grad_(False)


def spoil_attribute(net: nn.Module) -> None:
    net[1].momentum = 0.2


def spoil_and_restore(net: nn.Module) -> None:
    with torch.no_grad():
        net[0].weight.add_(0.0)


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_weight,
        spoil_statistics,
        spoil_counter,
        spoil_mode,
        spoil_grad,
        spoil_identity,
        spoil_requires,
        spoil_attribute,
        spoil_and_restore,
    ],
)
def test_assert_untouched_notices(spoil) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = snapshot(net)
    assert_untouched(net, before)
    spoil(net)
    with pytest.raises(AssertionError):
        assert_untouched(net, before)


def test_assert_no_graph_notices() -> None:
    w = torch.ones(1, requires_grad=True)
    assert_no_graph({"a": [torch.ones(1)]})
    for bad in ({"a": (w,)}, [w * 2], {}, "text"):
        with pytest.raises(AssertionError):
            assert_no_graph(bad)


def test_build_passes_what_the_method_takes() -> None:
    assert build("maml", inner_steps=3, inner_batch=2).adaptation.steps == 3
    assert build("reptile", inner_batch=2).adaptation.batch_size == 2


def test_assert_is_notices_another_method() -> None:
    assert_is(il.maml(0.1), il.anil(0.1, 1, head="*"))
    for other in (il.maml(0.2), il.fomaml(0.1), il.maml(0.1, test_steps=2)):
        with pytest.raises(AssertionError):
            assert_is(il.maml(0.1), other)


def test_assert_exact_notices_a_first_order_gradient() -> None:
    assert_exact(smooth_net(hidden=2), il.maml(0.3), vector_episode(1))
    with pytest.raises(AssertionError):
        assert_exact(smooth_net(hidden=2), il.fomaml(0.3), vector_episode(1))
