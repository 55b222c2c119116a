"""The baselines, which are of the same parts as the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, image_episode, smooth_net, vector_episode

import innerloop as il
from innerloop.cli.main import main
from innerloop.recipes import build, recipe
from innerloop.recipes.build import make_trainer, net_spec
from innerloop.recipes.schedules import halving


def tight_episode(ways: int = 3, shots: int = 2, queries: int = 2, tasks: int = 20) -> il.Episode:
    """Classes that lie apart, each around a random point."""
    g = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(tasks, ways, 1, 4, generator=g).double()
    x = centres + 0.3 * torch.randn(tasks, ways, shots + queries, 4, generator=g).double()
    y = torch.arange(ways)[None, :, None].expand(tasks, ways, shots + queries)
    parts = x[:, :, :shots], y[:, :, :shots], x[:, :, shots:], y[:, :, shots:]
    return il.Episode(*(part.flatten(1, 2) for part in parts))


# Prototypical networks


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_protomaml_at_zero_steps_is_a_prototypical_network(norm: str) -> None:
    net, episode = il.nets.conv4(5, filters=4).double(), image_episode(3)
    grads, info = il.meta_gradient(net, il.prototypical(), episode, norm=norm)
    expected, observed = il.meta_gradient(net, il.protomaml(inner_steps=0), episode, norm=norm)
    assert_same(grads, expected)
    torch.testing.assert_close(info.loss, observed.loss)
    x, y, query = episode.support_x[0], episode.support_y[0], episode.query_x[0]
    learners = [il.Learner(net, method) for method in (il.prototypical(), il.protomaml(test_steps=0))]
    one, other = (learner.adapt(x, y).predict_proba(query) for learner in learners)
    torch.testing.assert_close(one, other)


def test_a_prototypical_network_is_trained_with_more_ways_than_it_is_tested_with() -> None:
    """A class that the task does not have takes no part, which a head of the first width would let it."""
    net, episode = smooth_net(ways=9), tight_episode()
    result = il.evaluate(net, il.prototypical(ways=3), lambda generator: episode, tasks=20)
    with torch.no_grad():
        for i in range(20):
            support, query = net[:2](episode.support_x[i]), net[:2](episode.query_x[i])
            means = torch.stack([support[episode.support_y[i] == c].mean(0) for c in range(3)])
            right = torch.cdist(query, means).argmin(1) == episode.query_y[i]
            assert float(result.accuracy[i, 0]) == pytest.approx(float(right.double().mean()))
    assert result.mean > 0.9
    learner = il.Learner(net, il.prototypical(ways=3))
    predictor = learner.adapt(episode.support_x[0], episode.support_y[0])
    assert predictor.predict_proba(episode.query_x[0]).shape == (6, 3)
    with pytest.raises(ValueError, match=r"trained for 3 ways: number the classes from 0 to 2"):
        learner.adapt(episode.support_x[0], episode.support_y[0] + 1)
    with pytest.raises(ValueError, match="ways is 0"):
        il.prototypical(ways=0)


def test_the_recipe_of_prototypical_networks_has_60_ways() -> None:
    config = recipe("omniglot-5w1s-prototypical")
    assert net_spec(config)["arguments"]["ways"] == 60
    spec = net_spec(config)["arguments"]
    assert make_trainer(config, il.nets.conv4(**spec)).method.arguments["ways"] == 5
    assert [halving(i, 1) for i in (0, 1999, 2000, 4000)] == [1, 1, 0.5, 0.25]


def test_the_head_of_a_prototypical_network_may_be_named() -> None:
    net, episode = smooth_net(), vector_episode(2)
    assert_same(
        il.meta_gradient(net, il.prototypical(head="2"), episode)[0],
        il.meta_gradient(net, il.prototypical(), episode)[0],
        0,
        0,
    )


# Training from scratch


def test_training_from_scratch_is_gradient_descent_from_the_untrained_network() -> None:
    net, episode = smooth_net(), tight_episode()
    result = il.evaluate(net, il.scratch(0.5, 20), lambda generator: episode, tasks=20)
    assert result.per_step[0] < 0.7 < 0.9 < result.mean
    copy = smooth_net()
    copy.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(copy.parameters(), 0.5)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(copy(episode.support_x[0]), episode.support_y[0]).backward()
        optimizer.step()
    expected = F.cross_entropy(copy(episode.query_x[0]), episode.query_y[0]).detach()
    torch.testing.assert_close(result.loss[0, -1], expected)


def test_meta_training_from_scratch_changes_nothing() -> None:
    net, episode = smooth_net(), vector_episode()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    trainer = il.MetaTrainer(net, il.scratch(), lambda params: torch.optim.Adam(params, 0.1))
    info = trainer.step(episode)
    assert_same(dict(net.named_parameters()), before, 0, 0)
    expected = il.meta_gradient(net, il.maml(0.5, 20), episode)[1]
    torch.testing.assert_close(info.loss, expected.loss)
    torch.testing.assert_close(info.support_losses, expected.support_losses)


@pytest.mark.parametrize("name", ["scratch"])
def test_what_learns_nothing_is_trained_for_no_iterations(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = il.data.glyphs("val")  # drawn once, and fewer than those of training
    monkeypatch.setattr(build, "glyphs", lambda split, device: few)
    folder = str(tmp_path / "run")
    settings = ["--dataset", "glyphs", "--filters", "8", "--out", folder, "--quiet"]
    assert main(["train", f"omniglot-5w1s-{name}", *settings, "--iterations", "3"]) == 2
    assert "learns nothing from other tasks: it must be 0" in capsys.readouterr().err
    assert main(["train", f"omniglot-5w1s-{name}", *settings]) == 0
    assert main(["evaluate", folder, "--tasks", "40"]) == 0
    accuracy = float(capsys.readouterr().out.splitlines()[1].split()[1])
    assert accuracy > 35  # of five classes


def test_the_methods_that_learn_nothing() -> None:
    assert {name for name, make in il.METHODS.items() if not make().learns} == {"scratch"}
