"""Evaluation: the numbers, the tasks and the seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_no_graph, build, headed, smooth_net, vector_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import innerloop as il
from innerloop.randomness import Stream

METHOD = il.maml(0.3, 2)


def sampler(tasks: int = 3, queries: int = 4):
    """Draws anew at every call, and remembers how often."""

    def draw(generator: torch.Generator) -> il.Episode:
        draw.calls += 1
        x = torch.randn(tasks, 6 + queries, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (tasks, 6 + queries), generator=generator)
        return il.Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])

    draw.calls = 0
    return draw


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=2, max_size=20),
    st.booleans(),
)
def test_the_mean_and_its_interval_are_numpys(rows: list[list[float]], classes: bool) -> None:
    scores = torch.tensor(rows, dtype=torch.float64)
    result = il.Evaluation(scores if not classes else scores + 7, scores if classes else None, "inductive")
    last = np.asarray(rows, dtype=np.float64)[:, -1]
    assert result.metric == ("accuracy" if classes else "loss")
    assert result.mean == pytest.approx(last.mean(), rel=1e-9, abs=1e-12)
    assert result.ci95 == pytest.approx(1.96 * last.std(ddof=1) / math.sqrt(len(last)), rel=1e-9, abs=1e-12)
    assert result.per_step == pytest.approx(np.asarray(rows).mean(0).tolist(), rel=1e-9, abs=1e-12)


def test_the_interval_of_one_task_is_unknown() -> None:
    assert math.isnan(il.Evaluation(torch.ones(1, 2), None, "running").ci95)


def test_which_result_is_better() -> None:
    high, low = (il.Evaluation(torch.ones(2, 1), torch.full((2, 1), a), "inductive") for a in (0.9, 0.1))
    assert high.better_than(low.mean)
    assert not low.better_than(high.mean)
    assert low.better_than(None)
    assert not high.better_than(high.mean)
    costly, cheap = (il.Evaluation(torch.full((2, 1), a), None, "inductive") for a in (0.9, 0.1))
    assert cheap.better_than(costly.mean)
    assert not costly.better_than(cheap.mean)


@pytest.mark.parametrize(("tasks", "calls"), [(1, 1), (3, 1), (4, 2), (7, 3), (9, 3)])
def test_the_tasks_are_cut_exactly(tasks: int, calls: int) -> None:
    net, draw = smooth_net(), sampler()
    result = il.evaluate(net, METHOD, draw, tasks=tasks)
    assert draw.calls == calls
    assert result.loss.shape == result.accuracy.shape == (tasks, 3)
    more = il.evaluate(net, METHOD, sampler(), tasks=9)
    torch.testing.assert_close(result.loss, more.loss[:tasks], rtol=1e-12, atol=0)


def test_every_step_is_scored() -> None:
    net, episode = smooth_net(), vector_episode(4)
    result = il.evaluate(net, METHOD, lambda generator: episode, tasks=4)
    for k in range(3):
        for i in range(4):
            params = il.adapt(net, il.maml(0.3, k), episode.support_x[i], episode.support_y[i])
            out = torch.func.functional_call(net, params, (episode.query_x[i],))
            torch.testing.assert_close(result.loss[i, k], F.cross_entropy(out, episode.query_y[i]))
            right = (out.argmax(1) == episode.query_y[i]).float().mean()
            assert float(result.accuracy[i, k]) == float(right)
    assert result.per_step == pytest.approx(result.accuracy.mean(0).tolist())
    assert result.mean == result.per_step[-1]


def test_the_last_step_alone_scores_as_it_does_among_all() -> None:
    net, tasks = il.nets.mlp(hidden=(8,)), il.data.sinusoids().episodes(5, 5, 4)
    every, last = (
        il.evaluate(net, il.maml(0.01, 3), tasks, tasks=6, loss_fn=F.mse_loss, every_step=flag)
        for flag in (True, False)
    )
    assert every.loss.shape == (6, 4)
    assert last.loss.shape == (6, 1)
    assert torch.equal(every.loss[:, -1:], last.loss)
    assert every.loss[:, 0].mean() != last.mean


def test_the_seed_names_the_tasks() -> None:
    net = smooth_net()

    def use(**options):
        return il.evaluate(net, METHOD, sampler(), tasks=7, **options).loss

    one = use(seed=3)
    torch.manual_seed(99)  # the global generator has no part in it
    assert torch.equal(use(seed=3), one)
    assert torch.equal(use(seed=3, stream=Stream.TESTING), one)
    for other in ({"seed": 4}, {"seed": 3, "stream": Stream.VALIDATION}):
        assert not torch.allclose(use(**other)[:, 0], one[:, 0], rtol=1e-3)


@pytest.mark.parametrize("execution", ["serial", "batched", 1, 2, 50])
@pytest.mark.parametrize("name", list(il.METHODS))
def test_the_result_does_not_depend_on_how_tasks_are_run(name: str, execution) -> None:
    options = {"test_steps": 3, "test_batch": 4} if name == "reptile" else {"test_steps": 3}
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    net = headed(net, name)

    def use(execution):
        return il.evaluate(net, build(name, inner_lr=0.05, **options), sampler(), tasks=7, execution=execution)

    result, expected = use(execution), use("auto")
    torch.testing.assert_close(result.loss, expected.loss, rtol=1e-9, atol=1e-11)
    assert torch.equal(result.accuracy, expected.accuracy)


def test_regression_has_losses_only() -> None:
    result = il.evaluate(il.nets.mlp(), il.maml(0.01), il.data.sinusoids().episodes(), tasks=30, loss_fn=F.mse_loss)
    assert result.accuracy is None
    assert result.metric == "loss"
    assert torch.equal(result.scores, result.loss)
    assert result.loss.shape == (30, 2)


def test_an_evaluation_has_no_graph_and_names_its_norm() -> None:
    for norm in ("transductive", "inductive"):
        result = il.evaluate(smooth_net(), METHOD, sampler(), tasks=3, norm=norm)
        assert_no_graph(result)
        assert result.norm == norm


def test_adapting_beats_not_adapting_on_tasks_that_can_be_learned() -> None:
    """Two classes far apart: from chance at the start to nearly all right."""

    def draw(generator: torch.Generator) -> il.Episode:
        y = torch.tensor([0, 1]).repeat(8, 10)
        centre = torch.randn(8, 1, 4, generator=generator, dtype=torch.float64)
        x = centre * (2.0 * y[..., None] - 1) + 0.1 * torch.randn(8, 20, 4, generator=generator, dtype=torch.float64)
        return il.Episode(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])

    net = nn.Linear(4, 2).double()
    nn.init.zeros_(net.weight)
    result = il.evaluate(net, il.maml(1.0, 5), draw, tasks=32)
    assert result.per_step[-1] > 0.95
    assert result.per_step[0] < 0.7


@pytest.mark.parametrize("tasks", [0, -3])
def test_no_tasks_are_refused(tasks: int) -> None:
    with pytest.raises(ValueError, match=f"tasks is {tasks}; there must be at least 1"):
        il.evaluate(smooth_net(), METHOD, sampler(), tasks=tasks)


def test_episodes_without_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="needs query sets, and these episodes have none"):
        il.evaluate(smooth_net(), METHOD, sampler(queries=0), tasks=3)


def test_a_rule_that_learns_is_evaluated_with_what_it_learned() -> None:
    rule = il.rules.InnerRule(
        init=lambda params, learned: learned["lr"],
        step=lambda params, grads, lr: ({n: p - lr * grads[n] for n, p in params.items()}, lr),
        learned=lambda params: {"lr": torch.tensor(0.3, dtype=torch.float64)},
    )
    net = smooth_net()
    method = il.Method(il.Adaptation(rule, 2), il.unrolled())
    expected = il.evaluate(net, METHOD, sampler(), tasks=3).loss
    torch.testing.assert_close(il.evaluate(net, method, sampler(), tasks=3).loss, expected, rtol=1e-12, atol=0)
    meta = {**dict(net.named_parameters()), "method.lr": torch.tensor(0.0, dtype=torch.float64)}
    still = il.evaluate(net, method, sampler(), tasks=3, meta_params=meta).loss
    torch.testing.assert_close(still[:, 2], still[:, 0], rtol=1e-12, atol=0)
    assert not torch.allclose(still[:, 2], expected[:, 2], rtol=1e-3)


def test_a_learner_evaluates_as_it_predicts() -> None:
    net, episode = smooth_net(), vector_episode(3)
    learner = il.Learner(net, METHOD)
    result = learner.evaluate(lambda generator: episode, tasks=3)
    assert result.norm == "inductive"
    for i in range(3):
        predicted = learner.adapt(episode.support_x[i], episode.support_y[i]).outputs(episode.query_x[i])
        torch.testing.assert_close(result.loss[i, -1], F.cross_entropy(predicted, episode.query_y[i]))
    assert learner.evaluate(lambda generator: episode, tasks=3, norm="transductive").norm == "transductive"
