"""What holds for every registered method, gathered from the registry."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    CLASSIFICATION,
    LEARNING,
    assert_no_graph,
    assert_same,
    assert_untouched,
    build,
    headed,
    image_episode,
    meta_params_of,
    regression_episode,
    rng,
    small,
    smooth_net,
    snapshot,
    takes,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il
from innerloop.inner.starts import initialisation

METHODS = pytest.mark.parametrize("name", list(il.METHODS))
EXECUTIONS = ["batched", 1, 3, "auto"]


def conv() -> nn.Module:
    return il.nets.conv4(5, filters=8).double()


def mlp() -> nn.Module:
    return il.nets.mlp(4, 3, (8,)).double()


def normed_mlp() -> nn.Module:
    """With a batch norm that stores statistics, unlike conv4's.

    No bias before it: its gradient would be rounding alone, which Adam blows up to whole steps.
    """
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


def run(net: nn.Module, name: str, episode: il.Episode, seed: int = 0, **options):
    """The meta-gradient with the mini-batches of a seed."""
    return il.meta_gradient(net, small(name), episode, generator=rng(seed), **options)


def assert_same_info(actual, expected, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    for field in ("loss", "support_losses", "query_accuracy"):
        torch.testing.assert_close(getattr(actual, field), getattr(expected, field), rtol=rtol, atol=atol)
    assert (actual.rule_state is None) == (expected.rule_state is None)
    for one, other in zip(flat(actual.rule_state), flat(expected.rule_state), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def flat(state) -> list[Tensor]:
    if isinstance(state, dict):
        return [t for key in sorted(state) for t in flat(state[key])]
    if isinstance(state, tuple):
        return [t for item in state for t in flat(item)]
    return [] if state is None else [state]


def test_the_registry_holds_the_methods() -> None:
    assert {"maml", "fomaml", "reptile"} <= il.METHODS.keys()
    for name, make in il.METHODS.items():
        method = make()
        assert isinstance(method, il.Method)
        assert method == make() != il.METHODS["maml" if name != "maml" else "reptile"]()
        assert hash(method) == hash(make())
        assert getattr(il, name) is make
        assert "References:" in make.__doc__
        assert takes(name, "inner_lr") == (method.test.steps > 0)


@METHODS
@pytest.mark.parametrize(
    ("net", "norm"),
    [
        *[(conv, "transductive"), (conv, "inductive"), (normed_mlp, "transductive"), (normed_mlp, "inductive")],
        *[(mlp, "transductive"), (mlp, "inductive")],
    ],
)
def test_serial_is_batched_is_chunked(net, norm: str, name: str) -> None:
    """Chunks of all four tasks and of more are those of ``batched``, as seen with one network."""
    module = headed(net(), name)
    episode = image_episode(4) if net is conv else vector_episode(4)
    grads, info = run(module, name, episode, norm=norm, execution="serial")
    assert any(float(g.abs().max()) > 1e-6 for g in grads.values()) == small(name).learns
    assert info.support_losses.shape == (4, small(name).adaptation.steps)
    assert info.loss.shape == info.query_accuracy.shape == (4,)
    ways = {mlp: [*EXECUTIONS, 4, 50]}.get(net, EXECUTIONS)
    if net is conv and norm == "inductive":  # chunks of one image task are recorded, which takes long
        ways = [way for way in ways if way != 1]
    for execution in ways:
        others, observed = run(module, name, episode, norm=norm, execution=execution)
        assert_same(others, grads)
        assert_same_info(observed, info)


@METHODS
def test_serial_is_batched_for_regression(name: str) -> None:
    net, episode = headed(il.nets.mlp(hidden=(8,)).double(), name), regression_episode()
    if name in CLASSIFICATION:
        with pytest.raises(ValueError, match="need class indices"):
            run(net, name, episode, loss_fn=F.mse_loss)
        return
    grads, info = run(net, name, episode, loss_fn=F.mse_loss, execution="serial")
    assert info.query_accuracy is None
    for execution in EXECUTIONS:
        others, observed = run(net, name, episode, loss_fn=F.mse_loss, execution=execution)
        assert_same(others, grads)
        assert_same_info(observed, info)


@METHODS
def test_the_gradient_is_the_mean_over_tasks(name: str) -> None:
    """Over tasks run alone, each with its own mini-batches."""
    net, episode = headed(normed_mlp(), name), vector_episode(3)
    method = build(name, inner_lr=0.05, inner_steps=2, inner_batch=None)
    grads, info = il.meta_gradient(net, method, episode)
    alone = [il.meta_gradient(net, method, episode[i : i + 1]) for i in range(3)]
    assert_same(grads, {n: sum(g[n] for g, _ in alone) / 3 for n in grads})
    torch.testing.assert_close(info.loss, torch.cat([i.loss for _, i in alone]))


@METHODS
@pytest.mark.parametrize("norm", ["transductive", "inductive"])
@pytest.mark.parametrize("execution", ["serial", "batched", 2])
def test_a_task_does_not_see_another(execution, norm: str, name: str) -> None:
    net, episode = headed(normed_mlp(), name), vector_episode(4)
    changed = episode.map(Tensor.clone)
    changed.support_x[2] *= 3
    changed.query_x[2] += 1
    changed.query_y[2] = (changed.query_y[2] + 1) % 3
    grads, info = run(net, name, episode, norm=norm, execution=execution)
    others, observed = run(net, name, changed, norm=norm, execution=execution)
    rest = [0, 1, 3]
    for field in ("loss", "support_losses", "query_accuracy"):
        before, after = getattr(info, field), getattr(observed, field)
        torch.testing.assert_close(after[rest], before[rest], rtol=1e-12, atol=1e-13)
    assert not torch.isclose(observed.loss[2], info.loss[2], rtol=1e-3)
    # What changed in the sum is what changed in task 2 alone, run without the others.
    method = build(name, inner_lr=0.05, inner_steps=2, inner_batch=None)

    def mean(tasks):
        return il.meta_gradient(net, method, tasks, norm=norm, execution=execution)[0]

    one, other = (grads, others) if small(name).adaptation == method.adaptation else (mean(episode), mean(changed))
    alone, alone_changed = mean(episode[2:3]), mean(changed[2:3])
    difference = {n: 4 * (other[n] - one[n]) for n in one}
    assert_same(difference, {n: alone_changed[n] - alone[n] for n in one}, rtol=1e-8)
    assert any(float(d.abs().max()) > 1e-4 for d in difference.values()) == method.learns


@METHODS
@pytest.mark.parametrize("execution", ["serial", "batched"])
def test_a_broken_task_does_not_spoil_the_others(execution: str, name: str) -> None:
    net, episode = headed(normed_mlp(), name), vector_episode(3)
    _, info = run(net, name, episode, execution=execution)
    broken = episode.map(Tensor.clone)
    broken.support_x[1] = broken.query_x[1] = torch.nan
    grads, observed = run(net, name, broken, execution=execution)
    torch.testing.assert_close(observed.loss[[0, 2]], info.loss[[0, 2]], rtol=1e-12, atol=1e-13)
    assert observed.loss[1].isnan()
    assert any(bool(g.isnan().any()) for g in grads.values()) == small(name).learns


@METHODS
def test_the_order_of_the_tasks_does_not_matter(name: str) -> None:
    net, episode = headed(normed_mlp(), name), vector_episode(4)
    method = build(name, inner_lr=0.05, inner_steps=2, inner_batch=None)
    back = episode.map(lambda t: t.flip(0))
    grads, info = il.meta_gradient(net, method, episode, execution="serial")
    others, observed = il.meta_gradient(net, method, back, execution="serial")
    assert_same(others, grads)
    torch.testing.assert_close(observed.loss.flip(0), info.loss, rtol=1e-12, atol=0)


@METHODS
@pytest.mark.parametrize("execution", ["serial", "batched", "auto"])
def test_the_same_seed_gives_the_same_bits(execution: str, name: str) -> None:
    net, episode = headed(normed_mlp(), name), vector_episode()
    grads, info = run(net, name, episode, execution=execution)
    again, observed = run(net, name, episode, execution=execution)
    assert_same(again, grads, 0, 0)
    assert_same_info(observed, info, 0, 0)
    if small(name).adaptation.batch_size is not None:
        other, _ = run(net, name, episode, seed=1, execution=execution)
        assert any(not torch.allclose(other[n], grads[n], rtol=1e-6) for n in grads)


@METHODS
@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_untouched(training: bool, execution: str, name: str) -> None:
    net = headed(normed_mlp(), name).train(training)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    before, episode = snapshot(net), vector_episode()
    run(net, name, episode, execution=execution)
    il.adapt(net, small(name), episode.support_x[0], episode.support_y[0])
    il.evaluate(net, small(name), lambda generator: episode, tasks=3, execution=execution)
    assert_untouched(net, before)


@METHODS
def test_what_is_returned_has_no_graph(name: str) -> None:
    net, episode = headed(normed_mlp(), name), vector_episode()
    meta = meta_params_of(dict(net.named_parameters()), small(name))
    grads, info = run(net, name, episode, meta_params=meta)
    assert_no_graph(grads)
    assert_no_graph(info)
    assert_no_graph(il.adapt(net, small(name), episode.support_x[0], episode.support_y[0], meta_params=meta))
    assert_no_graph(il.evaluate(net, small(name), lambda generator: episode, tasks=3, meta_params=meta))


@METHODS
def test_the_gradient_is_the_same_where_autograd_is_off(name: str) -> None:
    net, episode = headed(normed_mlp(), name), vector_episode()
    grads, _ = run(net, name, episode)
    with torch.no_grad():
        others, _ = run(net, name, episode)
    assert_same(others, grads, 0, 0)


@METHODS
def test_no_steps_leave_the_start_as_it_is(name: str) -> None:
    net, episode = headed(mlp(), name), vector_episode(3)
    method = build(name, inner_lr=0.05, inner_steps=0, test_steps=0)
    if method.test.start == initialisation:  # test_family.py sees where others start
        adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
        assert_same(adapted, dict(net.named_parameters()), 0, 0)
    if method.adaptation.start != initialisation:
        pytest.skip(f"{name} does not start from the initialisation in meta-training")
    grads, info = il.meta_gradient(net, method, episode)
    assert info.support_losses.shape == (3, 0)
    losses = [F.cross_entropy(net(episode.query_x[i]), episode.query_y[i]) for i in range(3)]
    torch.testing.assert_close(info.loss, torch.stack(losses).detach())
    assert not any(grads[n].any() for n in grads if n.startswith("method."))
    grads = {n: grads[n] for n, _ in net.named_parameters()}
    # Without inner steps the meta-gradient is that of joint training, or nothing has moved.
    joint = torch.autograd.grad(torch.stack(losses).mean(), list(net.parameters()))
    moved = any(float(g.abs().max()) > 0 for g in grads.values())
    if moved:
        assert_same(grads, dict(zip(grads, joint, strict=True)))
    else:  # as only those may that never look at the queries
        blind = replace(episode, query_x=episode.query_x + 1)
        assert_same(run(net, name, blind)[0], run(net, name, episode)[0], 0, 0)


@METHODS
@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [
        ("inner_lr", -0.1, "lr is -0.1"),
        ("inner_lr", float("nan"), "lr is nan"),
        ("inner_steps", -1, "steps is -1"),
        ("test_steps", -2, "steps is -2"),
        ("inner_batch", 0, "batch size is 0"),
        ("test_batch", 0, "batch size is 0"),
    ],
)
def test_impossible_arguments_are_refused(argument: str, value: float, words: str, name: str) -> None:
    if not takes(name, argument):
        pytest.skip(f"{name} has no {argument}")
    with pytest.raises(ValueError, match=words):
        build(name, **{argument: value})


@METHODS
def test_a_pattern_that_matches_nothing_is_named(name: str) -> None:
    if not takes(name, "adapt"):
        pytest.skip(f"{name} has no adapt")
    method = build(name, adapt="tail.*")
    with pytest.raises(ValueError, match=r"'tail\.\*' matches none of the parameters 0\.weight"):
        il.meta_gradient(mlp(), method, vector_episode())


@METHODS
def test_what_is_not_adapted_stays_at_its_start(name: str) -> None:
    if not takes(name, "adapt"):
        pytest.skip(f"{name} has no adapt")
    net, episode = headed(mlp(), name), vector_episode()
    method = small(name, adapt="2.*")
    adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
    for n, p in net.named_parameters():
        assert torch.equal(adapted[n], p) == n.startswith("0.")
    grads, _ = il.meta_gradient(net, method, episode)
    assert {n for n in grads if not n.startswith("method.")} == dict(net.named_parameters()).keys()
    assert all(grads[n].shape == p.shape for n, p in net.named_parameters())
    assert not [n for n in grads if ".0.weight" in n or ".0.bias" in n]  # nothing is learned about what stays


@METHODS
def test_test_steps_are_those_of_new_tasks(name: str) -> None:
    net, episode = headed(mlp(), name), vector_episode()
    method = small(name, test_steps=4)
    assert method.test.steps == (4 if takes(name, "test_steps") else 0)
    result = il.evaluate(net, method, lambda generator: episode, tasks=5)
    assert result.loss.shape == result.accuracy.shape == (5, method.test.steps + 1)
    assert result.norm == "inductive"


EXACT = [name for name in LEARNING if il.METHODS[name]().meta_gradient.exact]
"""The methods whose estimator is the exact one; tests of their own compare the others with closed forms."""


@pytest.mark.parametrize("name", EXACT)
def test_the_meta_gradient_is_exact(name: str) -> None:
    """Along a random direction of all that is meta-learned, by central differences."""
    net, episode = smooth_net(), vector_episode()
    method = build(name, inner_lr=0.2, inner_steps=2, form="exact_svd")
    meta, g = meta_params_of(dict(net.named_parameters()), method), rng(3)
    meta = {n: p.detach() + 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in meta.items()}
    direction = {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in meta.items()}

    def at(distance: float) -> tuple[dict[str, Tensor], float]:
        moved = {n: p + distance * direction[n] for n, p in meta.items()}
        grads, info = il.meta_gradient(net, method, episode, meta_params=moved)
        return grads, float(info.loss.mean())

    slope = sum(float((grad * direction[n]).sum()) for n, grad in at(0.0)[0].items())
    assert slope == pytest.approx((at(1e-5)[1] - at(-1e-5)[1]) / 2e-5, rel=1e-6, abs=1e-8)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("name", LEARNING)
def test_a_stopped_run_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    def trainer(seed: int) -> il.MetaTrainer:
        torch.manual_seed(seed)
        method = small(name, multi_step_iterations=4, first_order_iterations=2)
        return il.MetaTrainer(mlp(), method, lambda params: torch.optim.Adam(params, lr=1e-2))

    def tasks(generator: torch.Generator) -> il.Episode:
        return vector_episode(3, seed=int(torch.randint(1000, (), generator=generator)))

    whole, part, resumed = (trainer(seed) for seed in (0, 0, 1))
    whole.fit(tasks, 5, progress=False)
    part.fit(tasks, 3, folder=tmp_path, progress=False)
    resumed.fit(tasks, 5, folder=tmp_path, resume=True, progress=False)
    assert_same(resumed.meta_params, whole.meta_params, rtol=0, atol=0)
    assert any(not torch.equal(p, whole.meta_params[n]) for n, p in trainer(0).meta_params.items())


@METHODS
def test_float32_stays_float32(name: str) -> None:
    net, episode = headed(mlp(), name).float(), vector_episode()
    episode = il.Episode(episode.support_x.float(), episode.support_y, episode.query_x.float(), episode.query_y)
    grads, info = run(net, name, episode)
    assert {g.dtype for g in grads.values()} == {info.loss.dtype} == {torch.float32}
    exact, _ = run(copy.deepcopy(net).double(), name, episode.map(lambda t: t.double() if t.is_floating_point() else t))
    assert_same({n: g.double() for n, g in grads.items()}, exact, rtol=1e-3, atol=1e-5)
