"""Classes and tasks of any numbers of examples: what is drawn, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import innerloop as il
from innerloop.data import DataError, LabelledClasses, from_arrays
from innerloop.data._draws import draw_distinct


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered() -> LabelledClasses:
    """Class c has 3 + c examples. An input is (class, number within the class)."""
    pairs = [(c, i) for c in range(6) for i in range(3 + c)]
    order = np.random.default_rng(0).permutation(len(pairs))
    x = torch.tensor(pairs, dtype=torch.float32)[order]
    return from_arrays(x, [f"class {int(c)}" for c in x[:, 0]])


def test_distinct_numbers_are_uniform_in_any_order() -> None:
    counts = torch.tensor([3, 5]).expand(20_000, 2)
    drawn = draw_distinct(counts, 3, generator())
    assert drawn.shape == (20_000, 2, 3)
    assert bool((drawn.sort(-1).values.diff(dim=-1) > 0).all())
    for column, count in enumerate((3, 5)):
        for place in range(3):
            seen = torch.bincount(drawn[:, column, place], minlength=count) / 20_000
            assert len(seen) == count
            assert torch.allclose(seen, torch.full((count,), 1 / count), atol=0.02)
    pairs = torch.bincount(drawn[:, 1, 0] * 5 + drawn[:, 1, 1], minlength=25).view(5, 5) / 20_000
    assert torch.allclose(pairs, (1 - torch.eye(5)) / 20, atol=0.01)


def test_an_episode_holds_distinct_examples_of_its_classes() -> None:
    data = numbered()
    draw = data.episodes(ways=4, shots=1, queries=2, tasks=200)
    episode = draw(generator())
    assert episode.support_x.shape == (200, 4, 2)
    assert episode.query_x.shape == (200, 8, 2)
    for support, query, labels in zip(episode.support_x, episode.query_x, episode.query_y, strict=True):
        classes = support[:, 0]
        assert len(classes.unique()) == 4
        assert torch.equal(query[:, 0], classes[labels])
        assert len(torch.cat([support, query]).unique(dim=0)) == 12
    assert {tuple(row) for row in episode.support_x.flatten(0, 1).tolist()} == {
        (c, i) for c in range(6) for i in range(3 + c)
    }
    again = draw(generator())
    assert all(torch.equal(getattr(episode, n), getattr(again, n)) for n in ("support_x", "query_x", "query_y"))
    assert not torch.equal(draw(generator(1)).support_x, episode.support_x)


def test_small_classes_are_named() -> None:
    data = numbered()
    message = (
        r"2 of 6 classes have fewer than the 5 examples that shots=1 and queries=4 need: class 0 \(3\), class 1 \(4\)"
    )
    with pytest.raises(DataError, match=message):
        data.episodes(ways=2, shots=1, queries=4, tasks=1)
    assert data.at_least(5).names == ("class 2", "class 3", "class 4", "class 5")
    with pytest.raises(DataError, match="none of the 6"):
        data.at_least(9)
    with pytest.raises(ValueError, match="there are 6 classes"):
        data.episodes(ways=7, shots=1, queries=1, tasks=1)
    with pytest.raises(ValueError, match="shots=0"):
        data.episodes(ways=2, shots=0, queries=1, tasks=1)


def test_batches_are_of_all_examples() -> None:
    episode = numbered().batches(4000)(generator())
    assert torch.equal(episode.query_x[0, :, 0].long(), episode.query_y[0])
    seen = torch.bincount(episode.query_y[0], minlength=6) / 4000
    assert torch.allclose(seen, torch.arange(3, 9) / 33, atol=0.03)


def test_a_split_is_of_classes() -> None:
    data = numbered()
    parts = data.split(val=0.2, test=0.35, seed=3)
    assert [part.classes for part in parts] == [3, 1, 2]
    assert sorted(name for part in parts for name in part.names) == list(data.names)
    assert [part.names for part in data.split(val=0.2, test=0.35, seed=3)] == [part.names for part in parts]
    for shares in ({"val": 0.05}, {"test": 0.0}, {"val": 0.5, "test": 0.5}):
        with pytest.raises(DataError):
            data.split(**shares)
    with pytest.raises(DataError, match="no class"):
        data.only(["class 1", "class 9"])


def test_arrays_of_images() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    labels = [1, 1, 1, 10, 10, 10]
    for x in (colours, colours.transpose(0, 3, 1, 2), torch.from_numpy(colours.transpose(0, 3, 1, 2).copy())):
        data = from_arrays(x, labels)
        assert data.names == ("1", "10")
        wanted = torch.from_numpy(colours.transpose(0, 3, 1, 2).copy()).float() / 255
        assert torch.equal(data.inputs.at(torch.arange(6)), wanted)
        assert torch.equal(data.preprocessing(x), wanted)
    greys = from_arrays(colours[..., 0], np.array(labels))
    assert greys.preprocessing.shape == (1, 5, 5)
    small = from_arrays(colours, labels, preprocessing=il.data.ImagePreprocessing((4, 4), 1, invert=True))
    assert small.inputs.at(torch.tensor([0])).shape == (1, 1, 4, 4)
    assert torch.equal(small.inputs.at(torch.arange(6)), small.preprocessing(colours))


def test_arrays_that_do_not_fit() -> None:
    x = np.zeros((4, 3))
    for labels, message in (([1, 2], "4 inputs and 2 targets"), ([0.5] * 4, "floats"), ([1, 1, None, 2], "no label")):
        with pytest.raises(DataError, match=message):
            from_arrays(x, labels)
    for bad in (np.zeros(4), np.zeros((0, 3)), np.array([[1], [1, 2]], dtype=object), np.full((4, 2), np.nan)):
        with pytest.raises(DataError):
            from_arrays(bad, [0] * 4)


def test_regression_tasks() -> None:
    tasks = np.repeat([3, 1, 2], (4, 6, 10))
    x = np.stack([tasks, np.arange(20)], 1)
    data = from_arrays(x, np.arange(20) / 10, tasks=tasks)
    assert data.names == ("1", "2", "3")
    episode = data.episodes(shots=2, queries=2, tasks=7)(generator())
    assert episode.support_y.shape == (7, 2, 1)
    assert len(episode.support_x[:3, 0, 0].unique()) == 3  # distinct, as far as there are tasks
    both = torch.cat([episode.support_x, episode.query_x], 1)
    assert torch.allclose(both[..., 1] / 10, torch.cat([episode.support_y, episode.query_y], 1)[..., 0])
    assert bool((both[..., 0] == both[:, :1, 0]).all())
    with pytest.raises(DataError, match=r"1 of 3 tasks have fewer than the 5 rows .* need: 3 \(4\)"):
        data.episodes(shots=2, queries=3, tasks=1)
    assert data.at_least(5).names == ("1", "2")
    with pytest.raises(ValueError, match="need the arguments shots, queries, tasks"):
        data.episodes(1, 2, 3, 4)


def test_classification_tasks_number_their_classes_alike() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["no", "yes"])[rng.integers(0, 2, 60)]
    tasks = np.arange(60) // 20
    data = from_arrays((y == "yes")[:, None] + 10.0 * tasks[:, None], y, tasks=tasks)
    episode = data.episodes(ways=2, shots=2, queries=3, tasks=3)(generator())
    assert torch.equal(episode.query_x[..., 0] % 10, episode.query_y.float())
    assert torch.equal(episode.support_y[0], torch.tensor([0, 0, 1, 1]))
    with pytest.raises(ValueError, match="Use ways=2"):
        data.episodes(ways=3, shots=1, queries=1, tasks=1)
    with pytest.raises(DataError, match=r"of no|of yes"):
        data.episodes(ways=2, shots=10, queries=3, tasks=3)


def test_they_train_and_are_evaluated() -> None:
    net = torch.nn.Linear(2, 3)
    trainer = il.MetaTrainer(net, il.maml(0.01), lambda p: torch.optim.SGD(p, 0.01))
    data = numbered()
    trainer.fit(data.episodes(ways=3, shots=1, queries=2, tasks=4), iterations=2)
    result = trainer.evaluate(data.episodes(ways=3, shots=1, queries=2, tasks=4), tasks=6)
    assert result.accuracy.shape == (6, 2)
