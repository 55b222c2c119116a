"""The inner loop: its iterates, mini-batches, and Reptile's rule that goes on from one meta-batch to the next."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, rng, smooth_net, trainable, vector_episode
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.adaptation import draw_batches
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.meta import Meta
from innerloop.inner.model import StatelessModel
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import Together

SGD = il.rules.sgd(0.1)


def iterates(net: nn.Module, adaptation: il.Adaptation, episode: il.Episode, track: Track = Track.NOTHING, **support):
    model = StatelessModel(net)
    given = Support(episode.support_x, episode.support_y, **support)
    return list(
        InnerLoop(Problem(model, F.cross_entropy, Together()), adaptation, Meta(model.initial), given).unroll(track)
    )


def test_the_iterates_are_all_yielded() -> None:
    net, episode = smooth_net(), vector_episode(2)
    seen = iterates(net, il.Adaptation(SGD, 3), episode)
    assert len(seen) == 4
    assert seen[0].support_losses is None
    for name, p in net.named_parameters():
        assert torch.equal(seen[0].adapted[name], p.expand(2, *p.shape))
    for k in range(1, 4):
        for i in range(2):
            params = {n: t[i] for n, t in seen[k - 1].adapted.items()}
            out = torch.func.functional_call(net, params, (episode.support_x[i],))
            torch.testing.assert_close(seen[k].support_losses[i], F.cross_entropy(out, episode.support_y[i]))
    losses = torch.stack([it.support_losses for it in seen[1:]])
    assert (losses[1:] < losses[:-1]).all()


@pytest.mark.parametrize("track", list(Track))
def test_what_stays_differentiable(track: Track) -> None:
    last = iterates(smooth_net(), il.Adaptation(SGD, 2), vector_episode(2), track)[-1]
    assert all(t.requires_grad == (track is not Track.NOTHING) for t in last.adapted.values())
    assert not last.support_losses.requires_grad


def test_fewer_steps_are_the_beginning_of_more() -> None:
    net, episode = smooth_net(), vector_episode(1)
    seen = iterates(net, il.Adaptation(SGD, 4), episode)
    for k in range(5):
        adapted = il.adapt(net, il.maml(0.1, k), episode.support_x[0], episode.support_y[0])
        assert_same(adapted, {n: t[0] for n, t in seen[k].adapted.items()}, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    tasks=st.integers(1, 4),
    examples=st.integers(1, 12),
    size=st.integers(1, 15),
    steps=st.integers(0, 8),
    seed=st.integers(0, 2**31),
)
def test_every_pass_covers_the_support_set(tasks: int, examples: int, size: int, steps: int, seed: int) -> None:
    """Read one after another, the batches are whole permutations, whatever the batch size."""
    adaptation = il.Adaptation(SGD, steps, batch_size=size)
    batches = draw_batches(adaptation, tasks, examples, rng(seed))
    if steps == 0 or size == examples:
        assert batches is None
        return
    assert batches.shape == (tasks, steps, size)
    again = draw_batches(adaptation, tasks, examples, rng(seed))
    assert torch.equal(batches, again)
    for row in batches.flatten(1).tolist():
        for first in range(0, len(row), examples):
            part = row[first : first + examples]
            assert len(set(part)) == len(part)
            assert set(part) <= set(range(examples))
            assert len(part) < examples or set(part) == set(range(examples))


def test_tasks_and_passes_have_orders_of_their_own() -> None:
    batches = draw_batches(il.Adaptation(SGD, 10, batch_size=4), 3, 20, rng())
    rows = batches.flatten(1)  # 40 indices, two passes through 20 examples
    orders = [rows[i, a : a + 20].tolist() for i in range(3) for a in (0, 20)]
    assert len({tuple(order) for order in orders}) == 6
    other = draw_batches(il.Adaptation(SGD, 10, batch_size=4), 3, 20, rng(1))
    assert not torch.equal(batches, other)


def test_the_whole_support_set_needs_no_randomness() -> None:
    generator = rng()
    before = generator.get_state()
    assert draw_batches(il.Adaptation(SGD, 3), 2, 6, generator) is None
    assert torch.equal(generator.get_state(), before)


def test_an_inner_step_sees_its_mini_batch_only() -> None:
    net, episode = smooth_net(), vector_episode(2)
    adaptation = il.Adaptation(SGD, 2, batch_size=2)
    batches = draw_batches(adaptation, 2, 6, rng())
    seen = iterates(net, adaptation, episode, batches=batches)
    for i in range(2):
        now = {n: p.detach().clone().requires_grad_() for n, p in trainable(net).items()}
        for k in range(2):
            rows = batches[i, k]
            loss = F.cross_entropy(
                torch.func.functional_call(net, now, (episode.support_x[i][rows],)), episode.support_y[i][rows]
            )
            torch.testing.assert_close(seen[k + 1].support_losses[i], loss.detach())
            grads = torch.autograd.grad(loss, list(now.values()))
            now = {n: (p - 0.1 * g).detach().requires_grad_() for (n, p), g in zip(now.items(), grads, strict=True)}
        assert_same({n: t[i] for n, t in seen[-1].adapted.items()}, now)


@pytest.mark.parametrize("estimator", [il.unrolled, il.first_order, il.displacement])
@pytest.mark.parametrize("execution", ["serial", "batched", 2])
def test_mini_batches_do_not_depend_on_how_tasks_are_run(execution, estimator) -> None:
    net, episode = smooth_net(), vector_episode(5)
    method = il.Method(il.Adaptation(SGD, 4, batch_size=4), estimator())

    def use(execution, seed):
        return il.meta_gradient(net, method, episode, execution=execution, generator=rng(seed))[0]

    one = use("serial", 0)
    assert_same(use(execution, 0), one)
    assert not torch.allclose(use(execution, 1)["0.weight"], one["0.weight"], rtol=1e-4)


def test_without_a_generator_the_global_one_is_used() -> None:
    net, episode = smooth_net(), vector_episode(2)
    method = il.reptile(0.01, 3, 2)

    def use(seed):
        torch.manual_seed(seed)
        return il.meta_gradient(net, method, episode)[0]

    assert_same(use(3), use(3), 0, 0)
    assert not torch.allclose(use(3)["0.weight"], use(4)["0.weight"], rtol=1e-4)


@pytest.mark.parametrize(("steps", "size", "words"), [(-1, None, "steps is -1"), (1, 0, "size is 0"), (1, -3, "is -3")])
def test_impossible_adaptations_are_refused(steps: int, size: int | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        il.Adaptation(SGD, steps, batch_size=size)


def test_a_scored_estimator_needs_queries_and_reptile_does_not() -> None:
    net, episode = smooth_net(), vector_episode(2, queries=4)
    empty = il.Episode(episode.support_x, episode.support_y, episode.query_x[:, :0], episode.query_y[:, :0])
    for method in (il.maml(0.1), il.fomaml(0.1)):
        with pytest.raises(ValueError, match="query set is empty"):
            il.meta_gradient(net, method, empty)
    method = il.reptile(0.01, 2, None)
    grads, info = il.meta_gradient(net, method, empty)
    assert info.loss is None
    assert info.query_accuracy is None
    assert info.support_losses.shape == (2, 2)
    with_queries, observed = il.meta_gradient(net, method, episode)
    assert_same(grads, with_queries, 0, 0)
    assert observed.loss.shape == (2,)


def test_the_objective_weighs_every_iterate_once() -> None:
    method = il.Method(il.Adaptation(SGD, 2, objective=lambda steps: (1.0,)), il.unrolled())
    with pytest.raises(ValueError, match="longer|shorter|weights"):
        il.meta_gradient(smooth_net(), method, vector_episode(2))


def test_the_query_accuracy_is_that_of_the_end_of_the_inner_loop() -> None:
    """Also for an objective that does not score the end."""
    net, episode = smooth_net(), vector_episode(6, queries=12)
    last = il.Adaptation(il.rules.sgd(2.0), 3)
    first = il.Adaptation(il.rules.sgd(2.0), 3, objective=lambda steps: (1.0, 0.0, 0.0, 0.0))
    _, expected = il.meta_gradient(net, il.Method(last, il.unrolled()), episode)
    _, info = il.meta_gradient(net, il.Method(first, il.unrolled()), episode)
    start = (net(episode.query_x).argmax(-1) == episode.query_y).float().mean(1)
    assert not torch.equal(start, expected.query_accuracy)
    assert torch.equal(info.query_accuracy, expected.query_accuracy)


def test_a_displacement_does_not_learn_what_a_rule_learns() -> None:
    rule = il.rules.InnerRule(
        init=lambda params, learned: learned["lr"],
        step=lambda params, grads, lr: ({n: p - lr * grads[n] for n, p in params.items()}, lr),
        learned=lambda params: {"lr": torch.tensor(0.1, dtype=torch.float64)},
    )
    with pytest.raises(ValueError, match=r"gives no gradient for method\.lr; use unrolled or first_order"):
        il.meta_gradient(smooth_net(), il.Method(il.Adaptation(rule, 1), il.displacement()), vector_episode(2))


# Reptile's Adam


def hand_reptile(net: nn.Module, episodes: list[il.Episode], steps: int, beta: float, batch: int | None) -> nn.Module:
    """Reptile on one task at a time, as in its original code, with one torch.optim.Adam throughout."""
    net = copy.deepcopy(net)
    inner = torch.optim.Adam(net.parameters(), 0.02, betas=(0.0, 0.999))
    for i, episode in enumerate(episodes):
        start = {n: p.detach().clone() for n, p in net.named_parameters()}
        # Which examples an inner step sees is drawn by the library; what is done with them is not.
        batches = draw_batches(il.Adaptation(SGD, steps, batch), 1, episode.support_x.shape[1], rng(i))
        for k in range(steps):
            rows = slice(None) if batches is None else batches[0, k]
            inner.zero_grad()
            F.cross_entropy(net(episode.support_x[0][rows]), episode.support_y[0][rows]).backward()
            inner.step()
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.copy_(start[n] + beta * (p - start[n]))
    return net


@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("batch", [None, 4])
def test_reptile_is_the_original_over_three_meta_steps(batch: int | None, execution: str) -> None:
    net = smooth_net()
    episodes = [vector_episode(1, seed=i) for i in range(3)]
    expected = hand_reptile(net, episodes, 4, 0.5, batch)
    method = il.reptile(0.02, 4, batch)
    outer, state = torch.optim.SGD(net.parameters(), 0.5), None
    for i, episode in enumerate(episodes):
        grads, info = il.meta_gradient(net, method, episode, rule_state=state, execution=execution, generator=rng(i))
        for n, p in net.named_parameters():
            p.grad = grads[n]
        outer.step()
        state = info.rule_state
    assert_same(dict(net.named_parameters()), dict(expected.named_parameters()), rtol=1e-9, atol=1e-11)
    assert float(state["count"]) == 12


def test_forgetting_the_rule_state_is_another_method() -> None:
    """So that the test above can tell whether the state is carried on."""
    net, episodes = smooth_net(), [vector_episode(1, seed=i) for i in range(2)]
    method = il.reptile(0.02, 4, None)
    _, info = il.meta_gradient(net, method, episodes[0])
    kept, after = il.meta_gradient(net, method, episodes[1], rule_state=info.rule_state)
    fresh, anew = il.meta_gradient(net, method, episodes[1])
    assert not torch.allclose(kept["0.weight"], fresh["0.weight"], rtol=1e-2)
    assert float(after.rule_state["count"]) == 8
    assert float(anew.rule_state["count"]) == 4


@pytest.mark.parametrize("execution", ["serial", "batched", 2])
def test_the_rule_state_is_the_mean_over_tasks(execution) -> None:
    net, episode = smooth_net(), vector_episode(5)
    method = il.reptile(0.02, 3, None)
    _, info = il.meta_gradient(net, method, episode, execution=execution)
    alone = [il.meta_gradient(net, method, episode[i : i + 1])[1].rule_state for i in range(5)]
    for part in ("m", "v"):
        assert_same(info.rule_state[part], {n: sum(s[part][n] for s in alone) / 5 for n in alone[0][part]})
    assert float(info.rule_state["count"]) == 3
    assert float(info.rule_state["v"]["0.weight"].min()) > 0


def test_a_given_rule_state_is_not_written_to() -> None:
    net, episode = smooth_net(), vector_episode(2)
    method = il.reptile(0.02, 3, None)
    state = il.meta_gradient(net, method, episode)[1].rule_state
    before = {part: {n: t.clone() for n, t in state[part].items()} for part in ("m", "v")}
    il.meta_gradient(net, method, episode, rule_state=state)
    il.adapt(net, method, episode.support_x[0], episode.support_y[0], rule_state=state)
    il.evaluate(net, method, lambda generator: episode, tasks=2, rule_state=state)
    for part in ("m", "v"):
        assert_same(state[part], before[part], 0, 0)
    assert float(state["count"]) == 3


def test_the_rule_state_counts_where_tasks_are_new_too() -> None:
    net, episode = smooth_net(), vector_episode(2)
    method = il.reptile(0.02, 3, None, test_steps=3)
    state = il.meta_gradient(net, method, episode)[1].rule_state
    x, y = episode.support_x[0], episode.support_y[0]
    fresh, carried = il.adapt(net, method, x, y), il.adapt(net, method, x, y, rule_state=state)
    assert not torch.allclose(fresh["0.weight"], carried["0.weight"], rtol=1e-3)
    one = il.evaluate(net, method, lambda generator: episode, tasks=2).loss
    other = il.evaluate(net, method, lambda generator: episode, tasks=2, rule_state=state).loss
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.allclose(one[:, -1], other[:, -1], rtol=1e-3)


def test_only_a_method_that_carries_its_state_returns_it() -> None:
    net, episode = smooth_net(), vector_episode(2)
    for method in (il.maml(0.1), il.fomaml(0.1), il.reptile(0.1, 2, None, inner_optimizer="sgd")):
        assert il.meta_gradient(net, method, episode)[1].rule_state is None


def test_reptile_refuses_another_optimizer() -> None:
    with pytest.raises(ValueError, match="inner_optimizer is 'rmsprop'; choose 'adam' or 'sgd'"):
        il.reptile(inner_optimizer="rmsprop")


def test_a_carried_state_is_carried_by_every_estimator() -> None:
    """An adaptation that asks for it must get it, or be told that it cannot."""
    net, episode = smooth_net(), vector_episode(2)
    adaptation = il.Adaptation(il.rules.adam(0.02), 2, carry_state=True)
    for estimator in (il.displacement, il.first_order, il.unrolled):
        try:
            _, info = il.meta_gradient(net, il.Method(adaptation, estimator()), episode)
        except ValueError as error:
            assert "carry_state" in str(error)  # noqa: PT017
            continue
        assert info.rule_state is not None, estimator.__name__
        assert not any(t.requires_grad for part in ("m", "v") for t in info.rule_state[part].values())


def test_a_state_of_nested_tuples_is_averaged_over_chunks() -> None:
    def init(params: dict[str, Tensor], learned: dict[str, Tensor]):
        return ({n: torch.zeros_like(p) for n, p in params.items()}, (torch.zeros((), dtype=torch.float64),))

    def step(params, grads, state):
        kept, (count,) = state
        kept = {n: kept[n] + grads[n] for n in kept}
        return {n: p - 0.1 * kept[n] for n, p in params.items()}, (kept, (count + 1,))

    net, episode = smooth_net(), vector_episode(5)
    adaptation = il.Adaptation(il.rules.InnerRule(init, step), 2, carry_state=True)
    method = il.Method(adaptation, il.displacement())
    _, serial = il.meta_gradient(net, method, episode, execution="serial")
    for execution in ("batched", 2):
        grads, info = il.meta_gradient(net, method, episode, execution=execution)
        assert_same(info.rule_state[0], serial.rule_state[0])
        assert float(info.rule_state[1][0]) == 2
        il.meta_gradient(net, method, episode, execution=execution, rule_state=info.rule_state)
