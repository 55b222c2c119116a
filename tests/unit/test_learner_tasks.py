"""Tasks as a person has them: labels and inputs of any kind, other numbers of steps and of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_helpers import small, smooth_net, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.data import ArrayPreprocessing, ImagePreprocessing, Scale

ANY_WAYS = ["finetune", "nearest_neighbour", "protomaml", "prototypical"]


def task() -> tuple[Tensor, Tensor, Tensor]:
    episode = vector_episode(1, queries=6)
    return episode.support_x[0], episode.support_y[0], episode.query_x[0]


LABELS: dict[str, list[Any]] = {
    "texts": ["cat", "owl", "yak"],
    "numbers": [-7, 10, 2000],
    "floats": [0.0, 1.0, 2.5],
    "indices": [0, 1, 2],
    "of NumPy": list(np.array(["cat", "owl", "yak"])),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_predictions_are_in_the_labels_of_the_support_set(kind: str, make: Any) -> None:
    if make is torch.tensor and isinstance(LABELS[kind][0], str):
        return
    x, y, query = task()
    learner = il.Learner(smooth_net(), il.maml(0.3, 2))
    expected, names = learner.adapt(x, y), LABELS[kind]
    predictor = learner.adapt(x, make([names[int(i)] for i in y]))
    torch.testing.assert_close(predictor.predict_proba(query), expected.predict_proba(query))
    found = predictor.predict(query)
    assert isinstance(found, Tensor if make is torch.tensor else np.ndarray)
    assert found.tolist() == [names[int(i)] for i in expected.predict(query)]
    assert predictor.labels.tolist() == names
    assert predictor.score(query, found) == 1.0


def test_two_labels_of_a_learner_for_three() -> None:
    x, y, query = task()
    predictor = il.Learner(smooth_net(), il.maml(0.3, 2)).adapt(x, [bool(i) for i in y])
    p = predictor.predict_proba(query)
    assert p.shape == (6, 2)
    torch.testing.assert_close(p, predictor.outputs(query)[:, :2].softmax(1))
    assert predictor.predict(query).dtype == np.bool_


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", 1, "a", 1, "a", 1], "partly texts"),
        (["a", None, "a", "b", "a", "b"], "partly texts"),
        ([1.0, np.nan, 1.0, 2.0, 1.0, 2.0], "missing"),
        ([[1], [2], [1], [2], [1], [2]], r"shape \[6, 1\]"),
        (np.array(["a", None, "a", "b", "a", "b"], dtype=object), "missing|order"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        il.Learner(smooth_net(), il.maml(0.3)).adapt(task()[0], labels)


# The number of steps and of classes


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_number_of_steps_can_be_chosen(steps: int) -> None:
    x, y, query = task()
    net = smooth_net()
    found = il.Learner(net, il.maml(0.3, 2)).adapt(x, y, steps=steps).outputs(query)
    torch.testing.assert_close(found, il.Learner(net, il.maml(0.3, steps)).adapt(x, y).outputs(query))


@pytest.mark.parametrize("name", ANY_WAYS)
def test_a_method_that_makes_its_head_takes_any_number_of_classes(name: str) -> None:
    net = nn.Sequential(nn.Linear(4, 5), il.nets.Neighbours(5, 3)) if name == "nearest_neighbour" else smooth_net()
    method = small(name)
    learner = il.Learner(net.double(), method)
    x = 3 * torch.eye(8, 4).double() + torch.arange(8)[:, None]
    for ways in (2, 7):
        names = [f"class {i % ways}" for i in range(8)]
        predictor = learner.adapt(x, names)
        assert predictor.outputs(x).shape == predictor.predict_proba(x).shape == (8, ways)
        indices = learner.adapt(x, torch.arange(8) % ways, ways=ways)
        torch.testing.assert_close(indices.predict_proba(x), predictor.predict_proba(x))
    if name == "nearest_neighbour":
        assert predictor.score(x, names) == 1.0


def test_the_methods_that_make_their_head_are_these() -> None:
    found = [name for name, make in il.METHODS.items() if getattr(make().test.start, "any_ways", False)]
    assert sorted(found) == ANY_WAYS


def test_ways_that_do_not_fit_are_refused() -> None:
    x, y, query = task()
    learner = il.Learner(smooth_net(), il.maml(0.3))
    assert learner.adapt(x, y.clamp(max=1), ways=2).predict_proba(query).shape == (6, 2)
    with pytest.raises(ValueError, match="the task has 4 classes, and this learner was trained for 3 ways"):
        learner.adapt(x, y, ways=4)
    with pytest.raises(ValueError, match="ways is 2, and the support set has 3 classes"):
        learner.adapt(x, y, ways=2)
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match=f"ways is {wrong}; it must be a whole number of at least 1"):
            learner.adapt(x, y, ways=wrong)
        with pytest.raises(ValueError, match=r"steps is .*whole number of at least 0"):
            learner.adapt(x, y, steps=-1 if wrong == 0 else 1.5)


# Regression


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_flat_targets_are_one_number_for_each_example(make: Any) -> None:
    """The loss of outputs [S, 1] and targets [S] would compare each output with every target."""
    x = torch.randn(5, 1)
    y = (2 * x).squeeze(1)
    learner = il.Learner(il.nets.mlp(), il.maml(0.01, 3), loss_fn=F.mse_loss)
    expected = learner.adapt(x, y[:, None]).predict(x)
    predictor = learner.adapt(x, make(y.tolist()))
    found = predictor.predict(x)
    assert found.shape == (5,)
    np.testing.assert_allclose(np.asarray(found), expected[:, 0].numpy(), rtol=1e-5)
    assert predictor.score(x, found) == 1.0
    assert predictor.labels is None


def test_targets_of_another_width_are_refused() -> None:
    learner = il.Learner(il.nets.mlp(), il.maml(0.01), loss_fn=F.mse_loss)
    with pytest.raises(ValueError, match=r"targets have the shape \[5, 2\] and the network's outputs \[5, 1\]"):
        learner.adapt(torch.zeros(5, 1), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="the targets are not numbers"):
        learner.adapt(torch.zeros(2, 1), ["low", "high"])
    with pytest.raises(ValueError, match="missing or infinite"):
        learner.adapt(torch.zeros(2, 1), [1.0, float("nan")])
    with pytest.raises(ValueError, match="without classes; leave ways out"):
        learner.adapt(torch.zeros(2, 1), [1.0, 2.0], ways=2)


def test_targets_in_their_own_units() -> None:
    prepare = ArrayPreprocessing(shape=(1,), mean=(10.0,), std=(2.0,), target=Scale(mean=100.0, std=20.0))
    net = il.nets.mlp()
    learner = il.Learner(net, il.maml(0.01, 3), loss_fn=F.mse_loss, preprocessing=prepare)
    raw_x, raw_y = [[8.0], [10.0], [12.0]], [80.0, 100.0, 120.0]
    x, y = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[-1.0], [0.0], [1.0]])
    prepared = learner.adapt(x, y).predict(x)  # tensors of floats are prepared already
    found = learner.adapt(raw_x, raw_y).predict(raw_x)
    np.testing.assert_allclose(found, prepared[:, 0].numpy() * 20 + 100, rtol=1e-5)


def test_scores() -> None:
    x, y, _ = task()
    predictor = il.Learner(smooth_net(), il.maml(0.3, 2)).adapt(x, y)
    right = (predictor.predict(x) == y).double().mean()
    assert predictor.score(x, y) == pytest.approx(float(right))
    with pytest.raises(ValueError, match="one target for each query"):
        predictor.score(x, y[:3])
    with pytest.raises(ValueError, match="one target for each query"):
        predictor.score(x[:0], y[:0])
    with pytest.raises(ValueError, match="the labels of the support set are int64"):
        predictor.score(x, ["0"] * 6)


# Inputs


def test_inputs_are_prepared_as_in_training(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    prepare = ImagePreprocessing(size=(28, 28), channels=1, invert=True)
    spec = {"name": "conv4", "arguments": {"ways": 3, "filters": 4}}
    learner = il.Learner(il.nets.conv4(3, filters=4), il.maml(0.3), net_spec=spec, preprocessing=prepare)
    drawings = [np.random.default_rng(i).integers(0, 255, (40, 30 + i), dtype=np.uint8) for i in range(3)]
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, drawing in zip(paths, drawings, strict=True):
        image.fromarray(drawing).save(path)
    x = prepare(drawings)
    expected = learner.adapt(x, torch.arange(3)).predict_proba(x)
    learner.save(tmp_path / "learner")
    loaded = il.Learner.load(tmp_path / "learner")
    assert loaded.preprocessing == prepare
    for inputs in (drawings, paths, [image.fromarray(drawing) for drawing in drawings]):
        predictor = loaded.adapt(inputs, ["a", "b", "c"])
        torch.testing.assert_close(predictor.predict_proba(inputs), expected)
        torch.testing.assert_close(predictor.predict_proba(paths[0]), expected[:1])
    assert torch.equal(loaded.trace(paths, ["a", "b", "c"], drawings).probabilities[-1].argmax(1), expected.argmax(1))


@pytest.mark.parametrize("make", [np.asarray, Tensor.tolist, lambda x: x.float().numpy(), list])
def test_arrays_need_no_preprocessing(make: Any) -> None:
    x, y, query = task()
    learner = il.Learner(smooth_net(), il.maml(0.3, 2))
    expected = learner.adapt(x, y).predict_proba(query)
    predictor = learner.adapt(make(x), y)
    torch.testing.assert_close(predictor.predict_proba(make(query)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("x", [["a.png", "b.png"], np.zeros((2, 4, 4), dtype=np.uint8), [object(), object()]])
def test_inputs_that_need_a_preprocessing_say_so(x: Any) -> None:
    with pytest.raises(ValueError, match=r"no preprocessing.*ImagePreprocessing"):
        il.Learner(smooth_net(), il.maml(0.3)).adapt(x, [0, 1])


class Doubled:
    """A preprocessing of one's own that is no value."""

    shape, target = (4,), None

    def __call__(self, inputs: Any) -> Tensor:
        return 2 * torch.as_tensor(inputs, dtype=torch.float64)


def test_a_preprocessing_that_cannot_be_described_is_asked_for(tmp_path: Path) -> None:
    il.Learner(smooth_net(), il.maml(0.3), preprocessing=Doubled()).save(tmp_path)
    with pytest.raises(il.CheckpointError, match=r"does not say how inputs are prepared.*preprocessing="):
        il.Learner.load(tmp_path, net=smooth_net())
    assert il.Learner.load(tmp_path, net=smooth_net(), preprocessing=Doubled()).preprocessing is not None


def test_a_training_saves_the_preprocessing_with_its_learner(tmp_path: Path) -> None:
    trainer = il.MetaTrainer(il.nets.mlp(), il.maml(0.01), lambda p: torch.optim.SGD(p, 0.1), loss_fn=F.mse_loss)
    prepare = ArrayPreprocessing(shape=(1,), target=Scale(1.0, 2.0))
    spec = {"name": "mlp", "arguments": {}}
    tasks = il.data.sinusoids().episodes(tasks=1)
    trainer.fit(tasks, 1, folder=tmp_path, progress=False, net_spec=spec, preprocessing=prepare)
    assert il.Learner.load(tmp_path).preprocessing == prepare
