"""The baselines, which are of the same parts as the rest."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, image_episode, smooth_net, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.cli.main import main
from innerloop.data import DATASETS
from innerloop.recipes import recipe
from innerloop.recipes.build import make_trainer, net_spec
from innerloop.recipes.schedules import halving
from innerloop.training.metrics import read_metrics


def tight_episode(ways: int = 3, shots: int = 2, queries: int = 2, tasks: int = 20) -> il.Episode:
    """Classes that lie apart, each around a random point."""
    g = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(tasks, ways, 1, 4, generator=g).double()
    x = centres + 0.3 * torch.randn(tasks, ways, shots + queries, 4, generator=g).double()
    y = torch.arange(ways)[None, :, None].expand(tasks, ways, shots + queries)
    parts = x[:, :, :shots], y[:, :, :shots], x[:, :, shots:], y[:, :, shots:]
    return il.Episode(*(part.flatten(1, 2) for part in parts))


def descended(net: nn.Module, trained: nn.Module, episode: il.Episode, steps: int = 20) -> Tensor:
    """The query loss of the first task after PyTorch's gradient descent on its support set, in place."""
    optimizer = torch.optim.SGD(trained.parameters(), 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(episode.support_x[0]), episode.support_y[0]).backward()
        optimizer.step()
    return F.cross_entropy(net(episode.query_x[0]), episode.query_y[0]).detach()


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
    other = learner.adapt(episode.support_x[0], episode.support_y[0] + 1)  # labels, which are no class indices
    assert torch.equal(other.predict(episode.query_x[0]), predictor.predict(episode.query_x[0]) + 1)
    assert other.predict_proba(episode.query_x[0]).shape == (6, 3)
    with pytest.raises(ValueError, match="ways is 0"):
        il.prototypical(ways=0)


def test_the_recipe_of_prototypical_networks_has_60_ways() -> None:
    config = recipe("omniglot-5w1s-prototypical")
    assert net_spec(config)["arguments"]["ways"] == 60
    spec = net_spec(config)["arguments"]
    assert make_trainer(config, il.nets.conv4(**spec)).method.test.start.ways == 5
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
    torch.testing.assert_close(result.loss[0, -1], descended(net, net, episode))


def test_meta_training_from_scratch_changes_nothing() -> None:
    net, episode = smooth_net(), vector_episode()
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    trainer = il.MetaTrainer(net, il.scratch(), lambda params: torch.optim.Adam(params, 0.1))
    info = trainer.step(episode)
    assert_same(dict(net.named_parameters()), before, 0, 0)
    expected = il.meta_gradient(net, il.maml(0.5, 20), episode)[1]
    torch.testing.assert_close(info.loss, expected.loss)
    torch.testing.assert_close(info.support_losses, expected.support_losses)


@pytest.mark.parametrize("name", ["scratch", "nearest-neighbour"])
def test_what_learns_nothing_is_trained_for_no_iterations(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = il.data.glyphs("val")  # drawn once, and fewer than those of training
    monkeypatch.setitem(DATASETS, "glyphs", replace(DATASETS["glyphs"], open=lambda split, place: few))
    folder = str(tmp_path / "run")
    small = ["--filters", "8"] if name == "scratch" else []  # the other's network is of pixels
    settings = ["--dataset", "glyphs", *small, "--out", folder, "--quiet"]
    assert main(["train", f"omniglot-5w1s-{name}", *settings, "--iterations", "3"]) == 2
    assert "learns nothing from other tasks: it must be 0" in capsys.readouterr().err
    assert main(["train", f"omniglot-5w1s-{name}", *settings]) == 0
    assert main(["evaluate", folder, "--tasks", "40"]) == 0
    accuracy = float(capsys.readouterr().out.splitlines()[1].split()[1])
    assert accuracy > 35  # of five classes


def test_the_methods_that_learn_nothing() -> None:
    assert {name for name, make in il.METHODS.items() if not make().learns} == {"scratch", "nearest_neighbour"}


# Fine-tuning


def every_class() -> il.Episode:
    """Two mini-batches of 9 classes, as query sets."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 12, 4, generator=g).double(), torch.randint(9, (2, 12), generator=g)
    return il.Episode(x[:, :1], y[:, :1], x, y)


def test_before_fine_tuning_an_ordinary_classifier_is_trained() -> None:
    net, episode = smooth_net(ways=9), every_class()
    grads, info = il.meta_gradient(net, il.finetune(ways=3), episode)
    losses = torch.stack([F.cross_entropy(net(episode.query_x[i]), episode.query_y[i]) for i in range(2)])
    slopes = torch.autograd.grad(losses.mean(), list(net.parameters()))
    assert_same(grads, dict(zip(grads, slopes, strict=True)))
    torch.testing.assert_close(info.loss, losses.detach())


@pytest.mark.parametrize("adapt", ["@last", "*"])
def test_fine_tuning_is_gradient_descent_from_a_new_head(adapt: str) -> None:
    net, episode = smooth_net(ways=9), tight_episode()
    result = il.evaluate(net, il.finetune(0.5, 20, ways=3, adapt=adapt), lambda generator: episode, tasks=20)
    torch.testing.assert_close(result.loss[:, 0], torch.full((20,), math.log(3)).double())
    assert result.mean > 0.9
    copy = smooth_net()
    copy[0].load_state_dict(net[0].state_dict())
    nn.init.zeros_(copy[2].weight)
    nn.init.zeros_(copy[2].bias)
    torch.testing.assert_close(result.loss[0, -1], descended(copy, copy[2] if adapt == "@last" else copy, episode))


def test_a_new_head_is_of_the_classes_of_the_task() -> None:
    net, episode = smooth_net(ways=9), tight_episode()
    learner = il.Learner(net, il.finetune(ways=3))
    outputs = learner.adapt(episode.support_x[0], episode.support_y[0]).outputs(episode.query_x[0])
    assert outputs.shape == (6, 3)
    other = learner.adapt(episode.support_x[0], episode.support_y[0] + 1)  # labels, which are no class indices
    assert torch.equal(other.outputs(episode.query_x[0]), outputs)
    assert learner.adapt(episode.support_x[0], torch.arange(6) % 4).outputs(episode.query_x[0]).shape == (6, 4)
    with pytest.raises(ValueError, match="a new head needs a linear layer '2'"):
        il.adapt(net, il.finetune(adapt="0.*", head="2"), episode.support_x[0], episode.support_y[0])


@pytest.mark.parametrize("rotations", ["none", "classes", "episode"])
def test_a_mini_batch_has_the_labels_of_all_classes(rotations: str) -> None:
    """Every image is of one pixel in its corner, whose level says of which class it is; a turn moves it."""
    drawings = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    drawings[:, :, 0, 0] = torch.arange(1, 7)[:, None]
    batches = il.data.ImageClasses.from_classes(drawings, rotations).batches(200, tasks=2)
    episode = batches(torch.Generator().manual_seed(0))
    turns = 1 if rotations == "none" else 4
    assert batches.classes == turns * 6 == len(episode.query_y.unique())
    assert episode.query_x.shape == (2, 200, 1, 4, 4)
    levels = (episode.query_x * 255).round().long()
    corners = torch.stack([levels[..., 0, 0, 0], levels[..., 0, 3, 0], levels[..., 0, 3, 3], levels[..., 0, 0, 3]], -1)
    assert torch.equal(6 * corners.argmax(-1) + corners.amax(-1) - 1, episode.query_y)
    again = batches(torch.Generator().manual_seed(0))
    assert torch.equal(again.query_x, episode.query_x)
    with pytest.raises(ValueError, match="size=0"):
        batches.source.batches(0)


def test_fine_tuning_from_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = il.data.glyphs("val")
    monkeypatch.setitem(DATASETS, "glyphs", replace(DATASETS["glyphs"], open=lambda split, place: few))
    folder = str(tmp_path / "run")
    settings = ["--dataset", "glyphs", "--filters", "8", "--val-tasks", "5", "--out", folder, "--quiet"]
    settings += ["--iterations", "40", "--val-every", "20", "--test-steps", "10"]
    assert main(["train", "omniglot-5w1s-finetune", *settings]) == 2
    assert "--train-ways is 4400" in capsys.readouterr().err
    assert main(["train", "omniglot-5w1s-finetune", *settings, "--train-ways", "300"]) == 0
    first, last = (record["loss"] for record in read_metrics(Path(folder)) if "loss" in record)
    assert last < first < math.log(300) + 0.5
    assert main(["evaluate", folder, "--tasks", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["ways"], result["inner_steps"]) == (5, 10)
    assert result["accuracy_per_step"][0] == pytest.approx(0.2)  # a head of zeros takes the first class each time


# Nearest neighbour


@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("shots", [1, 4])
def test_the_nearest_of_all_examples_says_the_class(shots: int, execution: str) -> None:
    """Of images in which a class is not one cloud: the mean of its examples would say something else."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 3 * shots, 1, 28, 28, generator=g), torch.arange(3).repeat(6, shots)
    queries = torch.rand(6, 30, 1, 28, 28, generator=g)
    labels = torch.randint(3, (6, 30), generator=g)
    net, episode = il.nets.pixels(3), il.Episode(x, y, queries, labels)
    result = il.evaluate(net, il.nearest_neighbour(), lambda generator: episode, tasks=6, execution=execution)
    for i in range(6):
        cosines = F.cosine_similarity(queries[i].flatten(1)[:, None], x[i].flatten(1)[None], dim=2)
        nearest = y[i][cosines.argmax(1)]
        right = (nearest == labels[i]).float().mean()
        assert float(result.accuracy[i, 0]) == pytest.approx(float(right))
        predictor = il.Learner(net, il.nearest_neighbour()).adapt(x[i], y[i])
        assert torch.equal(predictor.predict(queries[i]), nearest)
    assert result.accuracy.shape == (6, 1)


def test_with_one_example_of_each_class_the_nearest_neighbour_is_the_nearest_prototype() -> None:
    net = il.nets.pixels(5).double()
    linear = nn.Sequential(net[0], nn.Linear(784, 5)).double()
    episode = image_episode(4)
    one = il.evaluate(net, il.nearest_neighbour(), lambda generator: episode, tasks=4)
    other = il.evaluate(linear, il.prototypical(), lambda generator: episode, tasks=4)
    torch.testing.assert_close(one.loss, other.loss)
    assert torch.equal(one.accuracy, other.accuracy)


def test_a_class_without_examples_is_never_the_nearest() -> None:
    learner = il.Learner(il.nets.pixels(3), il.nearest_neighbour())
    outputs = learner.adapt(torch.rand(4, 1, 28, 28), torch.tensor([0, 2, 2, 0])).outputs(torch.rand(9, 1, 28, 28))
    assert torch.equal(outputs.isinf(), torch.tensor([[False, True, False]]).expand(9, 3))


def test_a_head_that_keeps_no_examples_is_refused() -> None:
    episode = vector_episode(2)
    with pytest.raises(ValueError, match=r"the layer '2' cannot store examples.*let it be an il\.nets\.Neighbours"):
        il.evaluate(smooth_net(), il.nearest_neighbour(), lambda generator: episode, tasks=2)
    with pytest.raises(ValueError, match="features is 0"):
        il.nets.Neighbours(0, 3)
