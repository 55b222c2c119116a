"""How objects print in a terminal and in a notebook."""

from __future__ import annotations

import torch

import innerloop as il
from innerloop.display import Shown


def objects() -> list[Shown]:
    net = il.nets.conv4(ways=3, filters=2)
    drawings = il.data.ImageClasses.from_classes(torch.randint(255, (6, 4, 28, 28), dtype=torch.uint8))
    tasks = drawings.episodes(ways=3, shots=1, queries=1, tasks=2)
    episode = tasks(torch.Generator())
    trainer = il.MetaTrainer(net, il.maml(0.1), lambda params: torch.optim.Adam(params, 1e-3))
    learner = trainer.learner(about={"note": "<b>bold</b>"})
    predictor = learner.adapt(episode.support_x[0], ["ant", "bee", "<cat>"])
    return [drawings, episode, trainer, learner, predictor, trainer.evaluate(tasks, tasks=2)]


def test_objects_print_a_few_facts() -> None:
    for shown in objects():
        text, facts = repr(shown), shown.facts()
        assert text.startswith(type(shown).__name__)
        assert len(text) < 1000
        assert "tensor(" not in text
        assert all(name in text and value in text for name, value in facts.items())


def test_what_they_say_is_right() -> None:
    drawings, episode, trainer, learner, predictor, result = objects()
    assert drawings.facts()["images"] == "4 of each, 1 x 28 x 28"
    assert episode.facts()["support_y"] == "[2, 3], int64"
    assert trainer.facts()["optimizer"] == "Adam, rate 0.001"
    assert learner.facts()["adapts"] == "all parameters, in 1 steps"
    assert predictor.facts()["classes"] == "<cat>, ant, bee"
    assert result.facts()["score"] == result.summary()
    assert f"{100 * result.mean:.1f}" in result.summary()


def test_a_notebook_shows_a_table_with_nothing_but_text_in_it() -> None:
    for shown in objects():
        page = shown._repr_html_()
        assert page.count("<tr>") == len(shown.facts())
        assert "<cat>" not in page
        assert "<b>" not in page
