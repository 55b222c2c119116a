"""Batch-norm statistics for each inner step: as gathered and used, written out."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, rng, vector_episode
from torch import Tensor, nn

import innerloop as il
from innerloop.cli.main import main
from innerloop.data import glyphs
from innerloop.evaluation.norm_statistics import statistics_by_step
from innerloop.learner.files import load_state, save_state
from innerloop.recipes import RECIPES
from innerloop.recipes.build import EVALUATION_BATCH

RATE = 0.3

drawn_glyphs = functools.cache(glyphs)


def net(*, tracking: bool = True) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, track_running_stats=tracking)
    nn.init.normal_(norm.weight)
    return nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3)).double()


def forward(p: dict[str, Tensor], x: Tensor, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """With the statistics of the batch, or those given."""
    h = F.linear(x, p["0.weight"], p["0.bias"])
    mean, var = (h.mean(0), h.var(0, correction=0)) if statistics is None else statistics
    h = (h - mean) / (var + 1e-5).sqrt() * p["1.weight"] + p["1.bias"]
    return F.linear(torch.tanh(h), p["3.weight"], p["3.bias"])


def iterates(module: nn.Module, x: Tensor, y: Tensor, steps: int, rows: dict[str, Tensor] | None = None):
    """The iterates of MAML by hand, with batch statistics or those of each step."""
    now = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    found = [now]
    for k in range(steps):
        loss = F.cross_entropy(forward(now, x, rows and of_step(rows, k)), y)
        grads = torch.autograd.grad(loss, list(now.values()))
        now = {n: (p - RATE * g).detach().requires_grad_() for (n, p), g in zip(now.items(), grads, strict=True)}
        found.append(now)
    return found


def of_step(rows: dict[str, Tensor], k: int) -> tuple[Tensor, Tensor]:
    return rows["1.running_mean"][k], rows["1.running_var"][k]


def invented(steps: int) -> dict[str, Tensor]:
    """Statistics that are of no data, and differ from step to step."""
    g = rng(3)
    mean = torch.randn(steps + 1, 6, generator=g, dtype=torch.float64)
    return {"1.running_mean": mean, "1.running_var": torch.rand(steps + 1, 6, generator=g, dtype=torch.float64) + 0.5}


@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_statistics_are_those_of_each_iterate_written_out(steps: int, tracking: bool) -> None:
    module, episode = net(tracking=tracking), vector_episode(3)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    rows = statistics_by_step(module, il.maml(RATE, steps), lambda generator: episode, tasks=5)
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())
    assert module.training
    assert {name: tuple(t.shape) for name, t in rows.items()} == {
        "1.running_mean": (steps + 1, 6),
        "1.running_var": (steps + 1, 6),
    }
    assert not any(t.requires_grad for t in rows.values())
    for k in range(steps + 1):
        given = []
        for i in [0, 1, 2, 0, 1]:  # the second meta-batch is cut
            at = iterates(module, episode.support_x[i], episode.support_y[i], steps)[k]
            x = episode.support_x[i] if k < steps else episode.query_x[i]
            given.append(F.linear(x, at["0.weight"], at["0.bias"]).detach())
        mean, var = of_step(rows, k)
        torch.testing.assert_close(mean, torch.stack([h.mean(0) for h in given]).mean(0))
        torch.testing.assert_close(var, torch.stack([h.var(0) for h in given]).mean(0))


def test_statistics_of_images_and_of_mini_batches() -> None:
    module = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 3)).double()
    x = torch.randn(1, 8, 2, 3, 3, generator=rng(), dtype=torch.float64)
    episode = il.Episode(x[:, :4], torch.arange(4)[None] % 3, x[:, 4:], torch.arange(4)[None] % 3)
    adaptation = il.Adaptation(il.rules.sgd(RATE), steps=2, batch_size=3)
    rows = statistics_by_step(module, il.Method(adaptation, il.unrolled()), lambda generator: episode, tasks=1)
    var, mean = torch.var_mean(episode.query_x[0], (0, 2, 3))
    torch.testing.assert_close(rows["0.running_mean"][2], mean)
    torch.testing.assert_close(rows["0.running_var"][2], var)
    of_three = [torch.cat([x[0, :i], x[0, i + 1 : 4]]).mean((0, 2, 3)) for i in range(4)]
    assert sum(torch.allclose(rows["0.running_mean"][0], each) for each in of_three) == 1


def test_a_layer_called_twice_has_the_mean_over_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(x) + self.norm(3 * x + 1))

    module, episode = Twice().double(), vector_episode(1)
    rows = statistics_by_step(module, il.maml(RATE, 0), lambda generator: episode, tasks=1)
    x = episode.query_x[0]
    torch.testing.assert_close(rows["norm.running_mean"][0], (x.mean(0) + (3 * x + 1).mean(0)) / 2)


@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("known", [1, 3])
def test_a_prediction_is_by_the_statistics_of_its_step(known: int, steps: int, tracking: bool) -> None:
    module, episode, rows = net(tracking=tracking), vector_episode(3), invented(known)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    method, last = il.maml(RATE, steps), {n: t[[min(k, known) for k in range(steps + 1)]] for n, t in rows.items()}
    learner = il.Learner(module, method, norm="per_step", statistics=rows)
    options = {"tasks": 3, "norm": "per_step", "statistics": rows}
    serial = il.evaluate(module, method, lambda generator: episode, execution="serial", **options)
    batched = il.evaluate(module, method, lambda generator: episode, execution="batched", **options)
    torch.testing.assert_close(serial.loss, batched.loss)
    for i in range(3):
        x, y, query = episode.support_x[i], episode.support_y[i], episode.query_x[i]
        found = iterates(module, x, y, steps, last)
        adapted = il.adapt(module, method, x, y, norm="per_step", statistics=rows)
        assert_same(adapted, {n: t.detach() for n, t in found[-1].items()})
        outputs = [forward(at, query, of_step(last, k)) for k, at in enumerate(found)]
        torch.testing.assert_close(learner.adapt(x, y).outputs(query), outputs[-1].detach())
        losses = torch.stack([F.cross_entropy(at, episode.query_y[i]) for at in outputs])
        torch.testing.assert_close(batched.loss[i], losses.detach())
    assert all(torch.equal(before[n], t) for n, t in module.state_dict().items())


def test_a_prediction_depends_on_no_other_query() -> None:
    episode = vector_episode(2, queries=5)
    learner = il.Learner(net(), il.maml(RATE, 2)).with_statistics(lambda generator: episode, tasks=2, norm="per_step")
    predictor = learner.adapt(episode.support_x[0], episode.support_y[0])
    query = episode.query_x[0]
    together = predictor.outputs(query)
    for j in range(5):
        torch.testing.assert_close(predictor.outputs(query[j : j + 1])[0], together[j], rtol=1e-13, atol=1e-14)


def test_a_layer_that_is_not_called_has_statistics_of_no_effect() -> None:
    episode = vector_episode(2)

    class Spared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.spare = net(), nn.BatchNorm1d(2, affine=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    one = il.Learner(net(), il.maml(RATE)).with_statistics(lambda generator: episode, tasks=2, norm="per_step")
    other = il.Learner(Spared(), il.maml(RATE)).with_statistics(lambda generator: episode, tasks=2, norm="per_step")
    x, y = episode.support_x[0], episode.support_y[0]
    torch.testing.assert_close(other.adapt(x, y).outputs(x), one.adapt(x, y).outputs(x))


def test_a_batch_norm_that_is_the_whole_module() -> None:
    episode = vector_episode(2, ways=4)
    learner = il.Learner(nn.BatchNorm1d(4).double(), il.maml(RATE)).with_statistics(lambda generator: episode, tasks=2)
    assert set(learner.statistics) == {"running_mean", "running_var"}
    assert torch.isfinite(learner.evaluate(lambda generator: episode, tasks=2, norm="per_step").loss).all()


def test_without_batch_norm_the_mode_is_as_the_others() -> None:
    module, episode = nn.Linear(4, 3).double(), vector_episode(2)
    learner = il.Learner(module, il.maml(RATE)).with_statistics(lambda generator: episode, tasks=1)
    assert learner.statistics == {}
    one, other = (learner.evaluate(lambda generator: episode, tasks=2, norm=n) for n in ("per_step", "inductive"))
    assert torch.equal(one.loss, other.loss)


def test_a_learner_keeps_its_statistics(tmp_path: Path) -> None:
    spec = {"name": "conv4", "arguments": {"ways": 5, "filters": 4}}
    tasks = drawn_glyphs("train").episodes(5, 1, 1, 2)
    plain = il.Learner(il.nets.conv4(5, filters=4), il.maml_plus_plus(0.1, 2, per_step="*.norm.*"), net_spec=spec)
    learner = plain.with_statistics(tasks, tasks=3, seed=1)
    assert plain.statistics is None
    assert learner.norm == plain.norm
    expected = learner.evaluate(tasks, tasks=2, norm="per_step").loss
    assert not torch.allclose(expected, learner.evaluate(tasks, tasks=2).loss, rtol=1e-3)
    learner.save(tmp_path)
    loaded = il.Learner.load(tmp_path, norm="per_step")
    assert_same(loaded.statistics, learner.statistics, 0, 0)
    assert torch.equal(loaded.evaluate(tasks, tasks=2).loss, expected)
    assert_same(plain.with_statistics(tasks, tasks=3, seed=1).statistics, learner.statistics, 0, 0)
    plain.save(tmp_path)
    assert il.Learner.load(tmp_path).statistics is None


def test_a_learner_saved_before_there_were_statistics_is_read(tmp_path: Path) -> None:
    il.Learner(nn.Linear(4, 3), il.maml(RATE)).save(tmp_path)
    state = load_state(tmp_path / "learner.safetensors")
    del state["statistics"]
    save_state(state, tmp_path / "learner.safetensors")
    assert il.Learner.load(tmp_path, net=nn.Linear(4, 3)).statistics is None


def test_statistics_that_are_absent_are_asked_for() -> None:
    module, episode = net(), vector_episode(2)
    absent = r"needs statistics of meta-training tasks, and there are none for 1.running_mean, 1.running_var: evaluate"
    for act in (
        lambda: il.evaluate(module, il.maml(RATE), lambda generator: episode, norm="per_step"),
        lambda: il.Learner(module, il.maml(RATE), norm="per_step"),
        lambda: il.Learner(module, il.maml(RATE)).evaluate(lambda generator: episode, norm="per_step"),
        lambda: il.meta_gradient(module, il.maml(RATE), episode, norm="per_step"),
        lambda: il.MetaTrainer(module, il.maml(RATE), torch.optim.Adam, norm="per_step"),
    ):
        with pytest.raises(ValueError, match=absent):
            act()
    mean = {"1.running_mean": torch.zeros(1, 6)}
    with pytest.raises(ValueError, match=r"none for 1.running_var:"):
        il.Learner(module, il.maml(RATE), norm="per_step", statistics=mean)


def test_a_run_gathers_statistics_when_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    train = ["train", "glyphs-5w1s-maml", "--method", "maml_plus_plus", "--iterations", "2", "--val-every", "1"]
    train += ["--val-tasks", "2", "--tasks", "2", "--filters", "4", "--quiet", "--out", run]
    evaluate = ["evaluate", run, "--tasks", "2", "--norm", "per_step", "--json"]
    assert main(train) == 0
    assert main(evaluate) == 2
    assert "--resume --statistics-tasks 100" in capsys.readouterr().err
    assert main([*train, "--statistics-tasks", "2", "--resume"]) == 0
    for more in ([], ["--ensemble", "2"]):
        assert main([*evaluate, *more]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0].endswith("per_step")
        assert json.loads(said[-1])["norm"] == "per_step"
    # Of characters of meta-training, by the learner that is kept.
    learner = il.Learner.load(run)
    again = learner.with_statistics(drawn_glyphs("train").episodes(5, 1, 5, EVALUATION_BATCH), tasks=2)
    assert_same(again.statistics, learner.statistics, 0, 0)


def test_the_recipes_of_maml_plus_plus_gather_statistics() -> None:
    gathering = {name for name, config in RECIPES.items() if config.statistics_tasks}
    assert gathering == {name for name, config in RECIPES.items() if config.method == "maml_plus_plus"}


def test_tasks_that_give_no_statistics_are_refused() -> None:
    episode = vector_episode(2)
    with pytest.raises(ValueError, match="tasks is 0"):
        statistics_by_step(net(), il.maml(RATE), lambda generator: episode, tasks=0)
    no_queries = replace(episode, query_x=episode.query_x[:, :0], query_y=episode.query_y[:, :0])
    with pytest.raises(ValueError, match="these episodes have none"):
        statistics_by_step(net(), il.maml(RATE), lambda generator: no_queries, tasks=1)
