"""The inner loop of one task, step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_no_graph, headed, small, smooth_net, vector_episode

import innerloop as il
from innerloop.inner.starts import NewHead, Prototypes
from innerloop.rules import sgd


@pytest.mark.parametrize("name", list(il.METHODS))
def test_a_trace_ends_where_adapting_ends(name: str) -> None:
    learner = il.Learner(headed(smooth_net(), name), small(name, test_batch=2))
    episode = vector_episode(1, queries=6)
    x, y, queries = episode.support_x[0], episode.support_y[0], episode.query_x[0]
    trace, predictor = learner.trace(x, y, queries), learner.adapt(x, y)
    assert len(trace.outputs) == len(trace.support_loss) == learner.method.test.steps + 1
    torch.testing.assert_close(trace.outputs[-1], predictor.outputs(queries))
    assert_no_graph(trace.params)
    for parameter, value in trace.params.items():
        torch.testing.assert_close(value, predictor.params[parameter])


def test_a_trace_begins_at_the_start_and_its_losses_fall() -> None:
    learner = il.Learner(smooth_net(), il.maml(0.1))
    episode = vector_episode(1, queries=2)
    x, y, queries = episode.support_x[0], episode.support_y[0], episode.query_x[0]
    net = learner._net  # its own copy
    trace = learner.trace(x, y, queries, steps=3)
    torch.testing.assert_close(trace.outputs[0], net(queries))
    torch.testing.assert_close(trace.support_loss[0], F.cross_entropy(net(x), y))
    assert trace.support_loss[3] < trace.support_loss[0]
    assert learner.trace(x, y, queries[:0], steps=0).outputs.shape == (1, 0, 3)


@pytest.mark.parametrize("start", [NewHead(), Prototypes()])
def test_a_start_that_makes_the_head_serves_any_number_of_classes(start: NewHead | Prototypes) -> None:
    learner = il.Learner(smooth_net(), il.Method(il.Adaptation(sgd(0.1), 2, start=start), il.unrolled()))
    x = torch.randn(7, 4, dtype=torch.float64)
    trace = learner.trace(x, torch.arange(7), x, ways=7)
    assert trace.probabilities.shape == (3, 7, 7)
    assert int((trace.probabilities[-1].argmax(-1) == torch.arange(7)).sum()) >= 4


def test_what_does_not_fit_is_refused_with_the_reason() -> None:
    learner, x = il.Learner(smooth_net(), il.maml(0.1)), torch.randn(4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="keeps the head of meta-training"):
        learner.trace(x, torch.arange(4), x, ways=4)
    with pytest.raises(ValueError, match="trained for 3 ways"):
        learner.trace(x, torch.arange(4), x)
    with pytest.raises(ValueError, match="there are 4 support inputs and 3 targets"):
        learner.trace(x, torch.arange(3), x)
