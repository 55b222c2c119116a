"""The learners in the package: they load, are small, say where they are from, and are of use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import innerloop as il

WEIGHTS = Path(il.__file__).parent / "learner" / "weights"


def test_there_are_four() -> None:
    assert il.PRETRAINED == ("glyphs-maml", "glyphs-reptile", "omniglot-maml", "omniglot-reptile")
    with pytest.raises(ValueError, match="no pretrained learner 'maml'; choose one of glyphs-maml"):
        il.pretrained("maml")


@pytest.mark.parametrize("name", il.PRETRAINED)
def test_each_is_small_and_says_where_it_is_from(name: str) -> None:
    assert sum(file.stat().st_size for file in (WEIGHTS / name).iterdir()) < 1_000_000
    about = il.pretrained(name).about
    assert about["command"] == f"python scripts/make_pretrained.py {name}"
    measured = {(row["ways"], row["shots"]) for row in about["accuracy"]}
    assert {(5, 1), (5, 5), (20, 1)} <= measured
    assert all(row["tasks"] >= 100 and row["norm"] == "inductive" for row in about["accuracy"])


@pytest.mark.parametrize("name", il.PRETRAINED)
def test_each_is_useful_on_new_characters(name: str) -> None:
    learner, tasks = il.pretrained(name), il.data.glyphs("test").episodes(ways=5, shots=1, queries=1, tasks=20)
    drawn = tasks(torch.Generator().manual_seed(0))
    right = []
    for x, y, queries, answers in zip(drawn.support_x, drawn.support_y, drawn.query_x, drawn.query_y, strict=True):
        trace = learner.trace(x, y, queries, ways=5)
        assert trace.probabilities.shape == (11, 5, 5)
        right.append((trace.probabilities[-1].argmax(-1) == answers).float().mean())
    accuracy = float(torch.stack(right).mean())
    assert accuracy > 0.5  # chance is 0.2; none has seen these glyphs, and two have seen none at all


def test_more_classes_than_the_network_was_made_for() -> None:
    x = torch.rand(30, 1, 28, 28)
    assert il.pretrained("omniglot-maml").trace(x, torch.arange(30), x[:1], ways=30).outputs.shape == (11, 1, 30)
