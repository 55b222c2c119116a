"""What a short training run does for every registered method, of the sort that fits it; there is no skip."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_helpers import CLASSIFICATION, assert_same, build, headed, rng, vector_episode

import innerloop as il
from innerloop.data.glyphs import draw_glyphs
from innerloop.engine.engine import Engine


def run_of(name: str) -> str:
    """Sinusoids for what learns to adapt by steps and knows regression, glyphs for all else that learns."""
    method = il.METHODS[name]()
    if not method.learns:
        return "nothing"
    return "sinusoids" if method.adaptation.steps and name not in CLASSIFICATION else "glyphs"


def methods(run: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [name for name in il.METHODS if run_of(name) == run])


@methods("sinusoids")
def test_it_learns_to_adapt_to_sinusoids(name: str) -> None:
    """A short run ends with a start that adapts: measured 0.15 to 0.35 of the untrained loss, and of its own."""
    net = il.nets.mlp(hidden=(32, 32))
    # The damping is iMAML's: five steps do not solve its inner problem.
    method = build(name, inner_lr=0.01, inner_steps=5, inner_batch=None, test_steps=5, damping=50.0)
    tasks = il.data.sinusoids().episodes(10, 10, 12)

    def score():
        return il.evaluate(net, method, tasks, tasks=96, loss_fn=F.mse_loss).per_step

    untrained = score()
    optimizer, state, engine = torch.optim.Adam(net.parameters(), 1e-2), None, Engine(net, F.mse_loss)
    for i in range(130):
        grads, info = engine.meta_gradient(method, tasks(rng(i)), rule_state=state)
        state = info.rule_state
        for n, p in net.named_parameters():
            p.grad = grads[n]
        optimizer.step()
    trained = score()
    assert trained[-1] < untrained[-1] / 2
    assert trained[-1] < trained[0] / 2


@pytest.fixture(scope="module")
def characters() -> tuple[il.data.ImageClasses, il.data.ImageClasses]:
    """Classes to train with, and others to test with."""
    drawn = draw_glyphs(range(400))
    return il.data.ImageClasses.from_classes(drawn[:300]), il.data.ImageClasses.from_classes(drawn[300:])


@methods("glyphs")
def test_it_learns_to_tell_new_glyphs_apart(name: str, characters) -> None:
    """Of five classes: measured 0.24 to 0.42 before a short run, and 0.55 to 0.70 after it."""
    known, unknown = characters
    method = build(name, ways=5, inner_lr=0.1, inner_steps=2, test_steps=5)
    if method.adaptation.steps == 0 < method.test.steps:  # an ordinary classifier, which adapts on new tasks alone
        tasks, outputs, iterations = known.batches(64), known.classes, 150
    else:
        tasks, outputs, iterations = known.episodes(5, 1, 3, tasks=8), 5, 40
    trainer = il.MetaTrainer(
        il.nets.conv4(outputs, filters=16), method, lambda params: torch.optim.Adam(params, lr=5e-3)
    )

    def score() -> float:
        new = unknown.episodes(5, 1, 5, tasks=30)
        return trainer.learner().evaluate(new, tasks=60, every_step=False).mean

    untrained = score()
    trainer.fit(tasks, iterations, progress=False)
    trained = score()
    assert trained > 0.45
    assert trained > untrained + 0.15


@methods("nothing")
def test_what_learns_nothing_stays_as_it_was(name: str) -> None:
    net = headed(il.nets.mlp(4, 3, (8,)).double(), name)
    trainer = il.MetaTrainer(net, build(name), lambda params: torch.optim.Adam(params, lr=0.1))
    before = {n: p.detach().clone() for n, p in trainer.meta_params.items()}
    trainer.fit(lambda generator: vector_episode(), 3, progress=False)
    assert trainer.iteration == 3
    assert_same(trainer.meta_params, before, rtol=0, atol=0)


def test_every_method_has_one_of_these_runs() -> None:
    assert {run_of(name) for name in il.METHODS} == {"sinusoids", "glyphs", "nothing"}
