"""The exact estimators that need less memory: the same gradient as ``unrolled``, and less memory."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    LEARNING,
    assert_exact,
    assert_no_graph,
    assert_same,
    assert_untouched,
    build,
    image_episode,
    regression_episode,
    rng,
    smooth_net,
    snapshot,
    trainable,
    vector_episode,
)
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import innerloop as il
from innerloop.inner.loop import Iterate
from innerloop.metagrad._store import Kept

LEAN = {
    "checkpointed": il.checkpointed(),
    "checkpointed 1": il.checkpointed(1),
    "checkpointed 3": il.checkpointed(3),
    "checkpointed 99": il.checkpointed(99),
    "mixed_mode": il.mixed_mode(),
    "mixed_mode 1": il.mixed_mode(1),
    "mixed_mode all": il.mixed_mode("all"),
}
FEW = {name: LEAN[name] for name in ("checkpointed", "mixed_mode", "mixed_mode all")}
SGD = il.rules.sgd(0.3)


def learned_rates() -> il.rules.InnerRule:
    """Learned rates and a learned decay, beside a momentum and a count of steps that nothing is learned of."""

    def init(params, learned):
        some = next(iter(params.values()))
        return {"m": {n: p * 0 for n, p in params.items()}, "rates": dict(learned), "count": some.new_zeros(())}

    def step(params, grads, state):
        rates, count = state["rates"], state["count"] + 1
        m = {n: 0.5 * state["m"][n] + grads[n] for n in params}
        new = {n: p - rates[n] * (m[n] + rates["decay"] * p) / count for n, p in params.items()}
        return new, {"m": m, "rates": rates, "count": count}

    def learned(params):
        rates = {n: torch.tensor(0.1 * (i + 1), dtype=torch.float64) for i, n in enumerate(params)}
        return {**rates, "decay": torch.tensor(0.05, dtype=torch.float64)}

    return il.rules.InnerRule(init, step, learned)


RULES = {
    "sgd": SGD,
    "momentum": il.rules.sgd(0.3, momentum=0.9),
    "nesterov with decay": il.rules.sgd(0.3, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": il.rules.adam(0.1, eps=1e-3),
    "adam beta1=0": il.rules.adam(0.1, betas=(0.0, 0.99), eps=1e-2, weight_decay=0.3),
    "learned rates": learned_rates(),
}
OBJECTIVES = {
    "last": lambda steps: (0.0,) * steps + (1.0,),
    "every": lambda steps: tuple(0.5 + k for k in range(steps + 1)),
    "not the last": lambda steps: (0.0, 2.0, 0.0, 1.0) + (0.0,) * (steps - 3),
}


def both(lean, adaptation: il.Adaptation, net: nn.Module, episode: il.Episode, *args, **options):
    """What an estimator gives, after comparing it with ``unrolled``, random numbers drawn included."""
    (found,) = each({"lean": lean}, adaptation, net, episode, *args, **options)
    return found


def each(lean, adaptation: il.Adaptation, net: nn.Module, episode: il.Episode, *args, **options):
    """What each of the named estimators gives, after comparing it with ``unrolled`` as :func:`both` does."""
    found = []
    for name, estimator in {"unrolled": il.unrolled(), **lean}.items():
        torch.manual_seed(3)
        grads, info = il.meta_gradient(
            net, il.Method(adaptation, estimator), episode, *args, generator=rng(1), **options
        )
        after = torch.rand(())
        if not found:
            expected, right, right_after = grads, info, after
        try:
            assert_same(grads, expected)
            assert_same_info(info, right)
            assert torch.equal(after, right_after)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        found.append((grads, info))
    return found[1:]


def assert_same_info(info, right) -> None:
    for name in ("loss", "support_losses", "query_accuracy"):
        torch.testing.assert_close(getattr(info, name), getattr(right, name), rtol=1e-12, atol=1e-14)
    state, expected = tree_leaves(info.rule_state), tree_leaves(right.rule_state)
    torch.testing.assert_close(state, expected, rtol=1e-11, atol=1e-13)


def test_the_comparison_can_fail() -> None:
    with pytest.raises(AssertionError):
        both(il.first_order(), il.Adaptation(SGD, 3), smooth_net(), vector_episode(2))


@pytest.mark.parametrize("execution", ["serial", 2])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule: str, execution) -> None:
    each(LEAN, il.Adaptation(RULES[rule], 5), smooth_net(), vector_episode(3), execution=execution)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("adapt", ["*", "2.*", "0.weight 2.bias"])
@pytest.mark.parametrize("rule", ["momentum", "learned rates"])
def test_every_objective_and_part_of_the_parameters(rule: str, adapt: str, objective: str) -> None:
    """What is not adapted has gradients through the query losses and through the inner gradients."""
    adaptation = il.Adaptation(RULES[rule], 7, adapt=adapt, objective=OBJECTIVES[objective])
    net = smooth_net()
    for grads, _ in each(FEW, adaptation, net, vector_episode(2), unused="ignore"):
        assert all(float(grads[name].abs().max()) > 0 for name in trainable(net))


@pytest.mark.parametrize("rule", ["adam", "momentum", "sgd"])
@pytest.mark.parametrize("lean", FEW)
def test_mini_batches_and_carried_state(lean: str, rule: str) -> None:
    net, episode = smooth_net(), vector_episode(3)
    adaptation = il.Adaptation(RULES[rule], 6, batch_size=2, carry_state=True)
    _, info = both(FEW[lean], adaptation, net, episode)
    both(FEW[lean], adaptation, net, episode, rule_state=info.rule_state)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (0.0, 1.0), (1.0, 2.0)])
def test_no_steps_and_one(weights: tuple[float, ...]) -> None:
    adaptation = il.Adaptation(RULES["adam"], len(weights) - 1, objective=lambda steps: weights)
    for _, info in each(LEAN, adaptation, smooth_net(), vector_episode(2)):
        assert info.support_losses.shape == (2, len(weights) - 1)


@pytest.mark.parametrize("norm", ["transductive", "inductive", "running"])
@pytest.mark.parametrize("execution", ["serial", "batched"])
@pytest.mark.parametrize("lean", FEW)
def test_batch_norm(lean: str, execution: str, norm: str) -> None:
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    before = snapshot(net)
    both(FEW[lean], il.Adaptation(SGD, 4), net, vector_episode(2), norm=norm, execution=execution)
    assert_untouched(net, before)


@pytest.mark.parametrize("execution", ["serial", 2])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_dropout_drops_the_same(objective: str, execution) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.4), nn.Tanh(), nn.Linear(8, 3)).double()
    adaptation = il.Adaptation(RULES["momentum"], 5, batch_size=4, objective=OBJECTIVES[objective])
    each(LEAN, adaptation, net, vector_episode(3), execution=execution)


@pytest.mark.parametrize("lean", FEW)
def test_without_random_layers_the_generator_is_left_alone(lean: str, monkeypatch) -> None:
    """Chunks of tasks run in threads, which share it."""

    def refuse(state):
        raise AssertionError

    monkeypatch.setattr(torch, "set_rng_state", refuse)
    both_objectives = il.Adaptation(SGD, 4, objective=OBJECTIVES["every"])
    il.meta_gradient(smooth_net(), il.Method(both_objectives, FEW[lean]), vector_episode(2))


@pytest.mark.parametrize("lean", FEW)
def test_images(lean: str) -> None:
    both(FEW[lean], il.Adaptation(il.rules.sgd(0.1), 3), il.nets.conv4(5, filters=4).double(), image_episode(3))


@pytest.mark.parametrize("lean", FEW)
def test_regression(lean: str) -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    _, info = both(FEW[lean], il.Adaptation(il.rules.sgd(0.02), 4), net, regression_episode(3), F.mse_loss)
    assert info.query_accuracy is None


@pytest.mark.parametrize("name", LEARNING)
def test_the_adaptation_of_every_method(name: str) -> None:
    """With what it learns, where it starts and how it is scored; differentiated in these ways."""
    net = il.nets.conv4(5, filters=4).double()
    method = build(name, inner_lr=0.05, inner_steps=3, inner_batch=3)
    each(FEW, method.adaptation, net, image_episode(2))


@pytest.mark.parametrize("lean", FEW)
def test_the_gradient_is_the_slope(lean: str) -> None:
    net, episode = smooth_net(hidden=2), vector_episode(2, support=3)
    assert_exact(net, il.maml(0.4, 4, adapt="2.*", meta_gradient=FEW[lean]), episode)


class Idle(nn.Module):
    """A network with parameters that only some of its losses use."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("adapt", ["*", "used.*"])
@pytest.mark.parametrize("lean", FEW)
def test_unused_parameters(lean: str, adapt: str) -> None:
    net, episode = Idle(), vector_episode(2)
    adaptation = il.Adaptation(RULES["nesterov with decay"], 3, adapt=adapt)
    grads, _ = both(FEW[lean], adaptation, net, episode, unused="ignore")
    assert float(grads["idle.weight"].abs().max()) == 0
    messages = []
    for estimator in (il.unrolled(), FEW[lean]):
        with pytest.raises(ValueError, match=r"does not depend on idle\.weight, idle\.bias") as caught:
            il.meta_gradient(net, il.Method(adaptation, estimator), episode)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("lean", FEW)
def test_what_cannot_be_scored_is_refused(lean: str) -> None:
    net, episode = smooth_net(), vector_episode(2)
    with pytest.raises(ValueError, match="query set is empty"):
        il.meta_gradient(net, il.maml(meta_gradient=FEW[lean]), vector_episode(2, queries=0))
    short = il.Adaptation(SGD, 2, objective=lambda steps: (1.0,))
    with pytest.raises(ValueError, match="1 weights for 2 inner steps"):
        il.meta_gradient(net, il.Method(short, FEW[lean]), episode)
    nothing = il.Adaptation(SGD, 2, objective=lambda steps: (0.0,) * 3)
    for estimator in (il.unrolled(), FEW[lean]):
        with pytest.raises(ValueError, match="meta-objective does not depend on any of the parameters"):
            il.meta_gradient(net, il.Method(nothing, estimator), episode)


@pytest.mark.parametrize("lean", FEW)
def test_what_is_returned_has_no_graph(lean: str) -> None:
    net = smooth_net()
    adaptation = il.Adaptation(RULES["adam"], 3, carry_state=True, objective=OBJECTIVES["every"])
    with torch.no_grad():
        grads, info = il.meta_gradient(net, il.Method(adaptation, FEW[lean]), vector_episode(2))
    assert_no_graph(grads)
    assert_no_graph(info)


@pytest.mark.parametrize("number", [0, -1])
def test_impossible_arguments_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"segments is {number}"):
        il.checkpointed(number)
    with pytest.raises(ValueError, match=f"keep is {number}"):
        il.mixed_mode(number)


class Bytes(TorchDispatchMode):
    """The most bytes of tensors that were alive at once, of those made while it is active; at most 1 % too few."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._total = 0
        self._noted: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                _, before = self._noted.get(storage._cdata, (None, 0))
                self._noted[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self._total += storage.nbytes() - before
        if self._total > 1.01 * self.peak:  # as far as we know: some may be gone
            self._noted = {key: item for key, item in self._noted.items() if not item[0].expired()}
            self._total = sum(size for _, size in self._noted.values())
            self.peak = max(self.peak, self._total)
        return result


def peak_bytes(estimator, steps: int, *, hidden: int, support: int, rule=SGD) -> int:
    net = smooth_net(hidden=hidden)
    episode = vector_episode(1, support=support, queries=4)
    method = il.Method(il.Adaptation(rule, steps), estimator)
    gc.collect()
    with Bytes() as counted:
        il.meta_gradient(net, method, episode, execution="batched")
    return counted.peak


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("estimator", "least", "most"),
    [
        (il.unrolled(), 5, 9),
        (il.checkpointed(), 0.7, 1.15),
        (il.checkpointed(8), 1.8, 4),
        (il.mixed_mode(), 0.9, 1.15),
        (il.mixed_mode("all"), 0.9, 1.3),
    ],
    ids=["unrolled", "checkpointed", "checkpointed 8", "mixed_mode", "mixed_mode all"],
)
def test_memory_at_32_steps_over_that_at_4(estimator, least: float, most: float, rule: str) -> None:
    """With 400 examples, whose activations are far larger than the parameters; 8 segments have 1 and 4 steps."""
    few, many = (peak_bytes(estimator, steps, hidden=6, support=400, rule=RULES[rule]) for steps in (4, 32))
    assert least * few < many < most * few


def test_few_steps_are_not_computed_again() -> None:
    seen: list[int] = []

    def loss(outputs, targets):
        seen.append(len(outputs))
        return F.cross_entropy(outputs, targets)

    def calls(estimator, steps: int) -> int:
        seen.clear()
        il.meta_gradient(smooth_net(), il.maml(0.1, steps, meta_gradient=estimator), vector_episode(1), loss)
        return len(seen) - 1  # the query loss

    assert [calls(il.unrolled(), steps) for steps in (4, 9)] == [4, 9]
    assert [calls(il.checkpointed(), steps) for steps in (4, 9, 64)] == [4, 9 + 6, 64 + 61]
    assert [calls(il.checkpointed(segments), 9) for segments in (1, 2, 9)] == [9, 9 + 5, 9 + 9]


def test_iterates_are_kept_side_by_side() -> None:
    kept, shared = Kept(3), torch.ones(1).expand(2, 5)
    given = []
    for k in range(3):
        weights = torch.full((2, 3, 4), float(k)).permute(0, 2, 1)
        state = {"m": torch.full((2, 4 - k), 10.0 * k), "rate": shared}
        given.append(Iterate({"w": weights}, {"fixed": shared}, state))
        kept.push(given[-1])
    found = [kept.pop() for _ in range(3)][::-1]
    for mine, theirs in zip(found, given, strict=True):
        assert torch.equal(mine.adapted["w"], theirs.adapted["w"])
        assert mine.adapted["w"].stride() == theirs.adapted["w"].stride()
        assert torch.equal(mine.state["m"], theirs.state["m"])
        assert mine.state["rate"] is mine.fixed["fixed"] is shared
    memory = {it.adapted["w"].untyped_storage().data_ptr() for it in found[1:]}
    assert len(memory) == 1
    assert memory.isdisjoint(it.adapted["w"].untyped_storage().data_ptr() for it in given)


def test_memory_of_the_iterates() -> None:
    """With 2 examples and many parameters: about 2 * 8 of 64 iterates are there at a time."""
    all_of_them = peak_bytes(il.mixed_mode("all"), 64, hidden=500, support=2)
    some = peak_bytes(il.mixed_mode(), 64, hidden=500, support=2)
    one = peak_bytes(il.mixed_mode(), 1, hidden=500, support=2)
    iterate = 8 * sum(p.numel() for p in smooth_net(hidden=500).parameters())
    assert 62 * iterate < all_of_them - one < 66 * iterate
    assert 13 * iterate < some - one < 17 * iterate


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), torch.OutOfMemoryError),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), RuntimeError),
        (MemoryError(), MemoryError),
    ],
)
def test_out_of_memory_names_what_needs_less(error: Exception, kind: type[Exception]) -> None:
    def loss(outputs, targets):
        raise error

    with pytest.raises(kind, match=r"execution=N.*il\.checkpointed\(\).*il\.mixed_mode\(\)") as caught:
        il.meta_gradient(smooth_net(), il.maml(0.1, 12), vector_episode(2), loss, execution="batched")
    assert type(caught.value) is kind
    assert str(error) in str(caught.value)
    assert "12 inner steps of 2 tasks" in str(caught.value)
    with pytest.raises(kind, match=r"il\.checkpointed\(3\)"):  # 3 steps are one segment by default
        il.meta_gradient(smooth_net(), il.maml(0.1, 3), vector_episode(2), loss, execution="batched")
    assert caught.value.__cause__ is error


def test_other_errors_are_left_as_they_are() -> None:
    error = RuntimeError("the sizes do not match")

    def loss(outputs, targets):
        raise error

    with pytest.raises(RuntimeError, match="sizes") as caught:
        il.meta_gradient(smooth_net(), il.maml(), vector_episode(2), loss, execution="serial")
    assert caught.value is error


def test_one_argument_away() -> None:
    net, episode = smooth_net(), vector_episode(2)
    expected, _ = il.meta_gradient(net, il.maml(0.1, 5), episode)
    for estimator in (il.checkpointed(), il.mixed_mode()):
        assert_same(il.meta_gradient(net, il.maml(0.1, 5, meta_gradient=estimator), episode)[0], expected)
        method = replace(il.maml(0.1, 5), meta_gradient=estimator)
        assert_same(il.meta_gradient(net, method, episode)[0], expected)
