"""Cross entropy of tasks that run together, with every option, is that of tasks run one by one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, rng
from torch import Tensor, nn

import innerloop as il

OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "ignored": {"ignore_index": 1},
    "weights": {"weight": torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)},
    "smoothed": {"label_smoothing": 0.1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cross_entropy_of_classes(options: dict[str, object]) -> None:
    y = torch.randint(3, (4, 6), generator=rng(1))
    y[:, 0] = 0  # so that not all examples of a task are ignored
    assert_same(*gradients(partial(F.cross_entropy, **options), y))


def test_cross_entropy_of_probabilities() -> None:
    y = torch.rand(4, 6, 3, generator=rng(1), dtype=torch.float64).softmax(-1)
    assert_same(*gradients(F.cross_entropy, y))


def test_no_such_class_is_an_error() -> None:
    with pytest.raises((RuntimeError, IndexError)):
        gradients(F.cross_entropy, torch.full((4, 6), 3))


def gradients(loss_fn: il.LossFn, y: Tensor) -> list[dict[str, Tensor]]:
    net = nn.Linear(5, 3).double()
    x = torch.randn(4, 6, 5, generator=rng(), dtype=torch.float64)
    episode = il.Episode(x, y, x.flip(1), y.flip(1))
    return [il.meta_gradient(net, il.maml(0.3, 2), episode, loss_fn, execution=how)[0] for how in ("batched", "serial")]
