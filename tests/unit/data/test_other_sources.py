"""Data sets of other libraries, iterables of episodes, and tasks of varying size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import innerloop as il
from innerloop.data import DataError, ImagePreprocessing, from_arrays, from_dataset, from_episodes, varying


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Pictures(Dataset):
    """As torchvision's data sets: Pillow images, ``targets`` and ``classes``."""

    classes = ("cat", "dog", "eel")

    def __init__(self, *, targets: bool) -> None:
        if targets:
            self.targets = [i % 3 for i in range(12)]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("L", (6, 5), 10 * (i % 3) + i // 3), i % 3


class Columns:
    """As Hugging Face's data sets: rows are mappings, and a column can be had alone."""

    column_names = ("image", "label")
    features = {"label": type("ClassLabel", (), {"names": ["cat", "dog", "eel"]})()}

    def __len__(self) -> int:
        return 12

    def __getitem__(self, key: int | str) -> object:
        if isinstance(key, str):
            return [i % 3 for i in range(12)]
        return dict(zip(self.column_names, Pictures(targets=True)[key], strict=True))


@pytest.mark.parametrize(
    "dataset", [Pictures(targets=True), Pictures(targets=False), Columns()], ids=["targets", "items", "columns"]
)
def test_data_sets_of_images(dataset: object) -> None:
    data = from_dataset(dataset, progress=False)
    assert data.names == ("cat", "dog", "eel")
    assert data.preprocessing == ImagePreprocessing((5, 6), 1)
    episode = data.episodes(ways=3, shots=1, queries=3, tasks=4)(generator())
    levels = (255 * episode.query_x.mean((2, 3, 4))).round() // 10
    own = (255 * episode.support_x.mean((2, 3, 4))).round() // 10
    assert torch.equal(levels, own.gather(1, episode.query_y))


def test_data_sets_of_tensors() -> None:
    x = torch.rand(12, 4)
    data = from_dataset(TensorDataset(x, torch.arange(12) % 2))
    assert torch.equal(data.inputs.at(torch.tensor([3, 5])), x[[3, 5]])
    assert from_dataset(TensorDataset(x), labels=["a", "b"] * 6).names == ("a", "b")
    for bad, options, message in (
        (TensorDataset(x), {}, "expected a tuple"),
        (TensorDataset(x, x[:, 0]), {}, "floats"),
        (TensorDataset(x), {"labels": [1]}, "12 items and 1 labels"),
        (Columns(), {"inputs": "picture"}, "inputs="),
        ([], {}, "no items"),
        ([("text", 1)], {}, "preprocessing="),
    ):
        with pytest.raises(DataError, match=message):
            from_dataset(bad, **options)


X, Y = torch.zeros(2, 3, 4), torch.arange(3).repeat(2, 1)


@pytest.mark.parametrize(
    "item",
    [
        il.Episode(X, Y, X, Y),
        (X, Y, X, Y),
        ((X, Y), (X, Y)),
        {"train": (X, Y), "test": [X, Y]},
        {"support": (X, Y), "query": (X, Y)},
    ],
    ids=lambda item: type(item).__name__,
)
def test_items_of_every_form(item: object) -> None:
    assert from_episodes([item])(generator()).tasks == 2


def test_iterables() -> None:
    items = [(X + i, Y, X, Y) for i in range(3)]
    drawn = [float(from_episodes(items)(generator(i)).support_x[0, 0, 0]) for i in range(20)]
    assert set(drawn) == {0, 1, 2}
    loader = DataLoader(TensorDataset(X, Y, X, Y), batch_size=1)
    draw = from_episodes(loader)
    assert [draw(generator()).tasks for _ in range(5)] == [1] * 5  # again and again
    once = from_episodes(item for item in items)
    assert [float(once(generator()).support_x[0, 0, 0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="no more episodes"):
        once(generator())
    for bad in ([], [3], [(X, Y)], [{"train": (X, Y)}], iter(())):
        with pytest.raises(DataError):
            from_episodes(bad)(generator())


def test_meta_batches_may_differ_in_size() -> None:
    labels = np.arange(60) // 10
    data = from_arrays(torch.randn(60, 2) + torch.from_numpy(labels)[:, None], labels)
    draw = varying(data, ways=(2, 4), shots=(1, 3), queries=(1, 2), tasks=3)
    seen = {(draw(generator(i)).support_y.shape[1], draw(generator(i)).query_y.shape[1]) for i in range(30)}
    assert len(seen) > 6
    trainer = il.MetaTrainer(torch.nn.Linear(2, 4), il.maml(0.1), lambda p: torch.optim.SGD(p, 0.1))
    trainer.fit(draw, iterations=4)
    assert trainer.evaluate(draw, tasks=7).accuracy.shape == (7, 2)
    listed = varying(data, ways=[2, 5], shots=[4, 1], queries=0, tasks=1)
    assert {(len(y := listed(generator(i)).support_y[0]), int(y.max())) for i in range(30)} == {
        *((2, 1), (8, 1), (5, 4), (20, 4))
    }
    with pytest.raises(ValueError, match="ways is an empty list"):
        varying(data, ways=[], shots=1, queries=1, tasks=1)
    with pytest.raises(ValueError, match="there are 6 classes"):
        varying(data, ways=(2, 9), shots=1, queries=1, tasks=1)
    with pytest.raises(ValueError, match="lower number first"):
        varying(data, ways=(4, 2), shots=1, queries=1, tasks=1)
