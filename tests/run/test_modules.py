"""Any nn.Module: buffers, tied and frozen parameters, dropout, norms, and models that cannot be batched."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from core_helpers import (
    LEARNING,
    assert_no_graph,
    assert_same,
    assert_untouched,
    plain_loss,
    regression_episode,
    rng,
    sgd_step,
    small,
    snapshot,
    trainable,
    vector_episode,
)
from torch import Tensor, nn

import innerloop as il

LR = 0.1
WAYS = ["serial", "batched", 2, "auto"]
EXECUTIONS = pytest.mark.parametrize("execution", WAYS)


class Counting(nn.Module):
    """Writes to buffers and plain attributes whenever it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("hidden_calls", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("seen", torch.zeros(5, dtype=torch.float64))
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.hidden_calls.add_(1)
        self.count += 1
        h = torch.tanh(self.body(x))
        self.seen = self.seen + h.detach().mean(0)
        return self.head(h)


class Momentum(nn.Module):
    """Adds a running mean of its inputs, which it updates first, to its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return self.lin(x + self.mean)


class Tied(nn.Module):
    """One weight used twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Branching(nn.Module):
    """Does one thing or another, depending on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x) + self.down(x) if x.sum() > 0 else self.up(-x) - self.down(x) ** 2


class Spare(nn.Module):
    """Has a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare, self.head = nn.Linear(4, 5), nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.used(x)))


def by_hand(net: nn.Module, episode: il.Episode, steps: int = 2) -> dict[str, Tensor]:
    """MAML's meta-gradient by plain loops."""
    at = trainable(net)
    loss = plain_loss(net, at, episode, sgd_step(LR), steps)
    return dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))


def everything(net: nn.Module, execution: str = "auto", names: list[str] = LEARNING) -> None:
    """Every way to use the core."""
    episode = vector_episode(3)
    for name in names:
        il.meta_gradient(net, small(name), episode, execution=execution, unused="ignore", generator=rng())
        il.evaluate(net, small(name), lambda generator: episode, tasks=3, execution=execution)
        if execution != "auto":  # what follows has one task
            continue
        il.adapt(net, small(name), episode.support_x[0], episode.support_y[0], unused="ignore", generator=rng())
        il.Learner(net, small(name)).adapt(episode.support_x[0], episode.support_y[0]).predict(episode.query_x[0])


MODULES = {
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
    "counting": Counting,
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)),
    "group norm": lambda: nn.Sequential(nn.Linear(4, 6), nn.GroupNorm(2, 6), nn.ReLU(), nn.Linear(6, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 3)),
    "tied": Tied,
}


@EXECUTIONS
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", MODULES)
def test_any_module_is_untouched(kind: str, training: bool, execution: str) -> None:
    """By any method in both modes. The ways to run take turns: every method is run in each, with other modules."""
    turn = WAYS.index(execution) + list(MODULES).index(kind) + 2 * training
    net = MODULES[kind]().double().train(training)
    next(net.parameters()).grad = torch.zeros_like(next(net.parameters()))
    before = snapshot(net)
    everything(net, execution, LEARNING[turn % 4 :: 4])
    assert_untouched(net, before)


def test_only_part_of_the_module_may_be_in_training_mode() -> None:
    net = MODULES["dropout"]().double().train()
    net[1].eval()
    before = snapshot(net)
    everything(net)
    assert_untouched(net, before)


@EXECUTIONS
@pytest.mark.parametrize("kind", ["counting", "layer norm", "group norm", "tied"])
def test_the_gradient_of_any_module_is_right(kind: str, execution: str) -> None:
    net = MODULES[kind]().double()
    episode = vector_episode(3)
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)
    assert_same(grads, by_hand(net, episode))


@EXECUTIONS
def test_batch_norm_without_statistics_is_right(execution: str) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)).double()
    episode = vector_episode(3)
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)
    assert_same(grads, by_hand(net, episode))


@pytest.mark.parametrize("execution", ["serial", "auto", 2])
def test_no_statistics_go_from_task_to_task(execution: str) -> None:
    """With a batch norm that stores statistics: two tasks run as they do alone, in either order."""
    net, episode = MODULES["batch norm"]().double(), vector_episode(2)
    method = il.maml(LR, 2)
    both, info = il.meta_gradient(net, method, episode, execution=execution)
    swapped, _ = il.meta_gradient(net, method, episode.map(lambda t: t.flip(0)), execution=execution)
    alone = [il.meta_gradient(net, method, episode[i : i + 1], execution=execution) for i in (0, 1)]
    assert_same(both, swapped)
    assert_same(both, {n: (alone[0][0][n] + alone[1][0][n]) / 2 for n in both})
    torch.testing.assert_close(info.loss, torch.cat([observed.loss for _, observed in alone]))


@pytest.mark.parametrize("execution", ["serial", "auto"])
def test_a_buffer_that_the_forward_pass_writes_starts_anew_for_every_task(execution: str) -> None:
    net, episode = Momentum().double(), vector_episode(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vmap may be unable to write the data of tasks into the buffer
        both, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)
        alone = [il.meta_gradient(net, il.maml(LR, 2), episode[i : i + 1], execution=execution) for i in (0, 1)]
    assert_same(both, {n: (alone[0][0][n] + alone[1][0][n]) / 2 for n in both})
    # Every forward pass starts from the module's own statistics, the first one included.
    first = (0.1 * episode.support_x[0].mean(0)).expand(6, 4)
    _, info = il.meta_gradient(net, il.maml(LR, 1), episode, execution="serial")
    expected = F.cross_entropy(net.lin(episode.support_x[0] + first), episode.support_y[0])
    torch.testing.assert_close(info.support_losses[0, 0], expected.detach())
    assert not net.mean.any()


@EXECUTIONS
def test_a_tied_parameter_is_one(execution: str) -> None:
    net, episode = Tied().double(), vector_episode(3)
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)
    assert "first.weight" in grads
    assert "second.weight" not in grads
    adapted = il.adapt(net, il.maml(LR, 2), episode.support_x[0], episode.support_y[0])
    # Adapting the tied net is training it, in which the weight stays one.
    twin = Tied().double()
    twin.load_state_dict(net.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), LR)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(twin(episode.support_x[0]), episode.support_y[0]).backward()
        optimizer.step()
    assert_same(adapted, dict(twin.named_parameters()))


@EXECUTIONS
def test_frozen_parameters_stay_and_have_no_gradient(execution: str) -> None:
    net, episode = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), vector_episode(3)
    net[0].requires_grad_(False)
    before = snapshot(net)
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)
    assert list(grads) == ["2.weight", "2.bias"]
    assert_same(grads, by_hand(net, episode))
    assert list(il.adapt(net, il.maml(LR), episode.support_x[0], episode.support_y[0])) == ["2.weight", "2.bias"]
    assert_untouched(net, before)


@EXECUTIONS
def test_dropout_is_active_in_training_mode(execution: str) -> None:
    net, episode = MODULES["dropout"]().double().train(), vector_episode(3)

    def draw(seed):
        torch.manual_seed(seed)
        return il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)

    (one, info), (same, _), (other, _) = draw(0), draw(0), draw(1)
    assert_same(one, same, 0, 0)
    assert not torch.allclose(one["0.weight"], other["0.weight"], rtol=1e-3)
    assert info.loss.isfinite().all()


def test_dropout_differs_between_tasks_that_are_run_together() -> None:
    net = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Linear(64, 3)).double().train()
    one = vector_episode(1)
    twins = one.map(lambda t: torch.cat([t, t]))
    _, info = il.meta_gradient(net, il.maml(LR, 1), twins, execution="batched")
    assert not torch.isclose(info.loss[0], info.loss[1], rtol=1e-3)
    _, info = il.meta_gradient(net.eval(), il.maml(LR, 1), twins, execution="batched")
    torch.testing.assert_close(info.loss[0], info.loss[1], rtol=1e-12, atol=0)


@EXECUTIONS
def test_dropout_is_off_in_evaluation_mode(execution: str) -> None:
    net, episode = MODULES["dropout"]().double().eval(), vector_episode(3)
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution=execution)
    assert_same(grads, by_hand(net, episode))


def test_dropout_is_off_when_testing_whatever_the_mode() -> None:
    net, episode = MODULES["dropout"]().double(), vector_episode(3)
    x, y = episode.support_x[0], episode.support_y[0]

    def use():
        return (
            il.adapt(net, il.maml(LR), x, y),
            il.evaluate(net, il.maml(LR), lambda generator: episode, tasks=3).loss,
            il.Learner(net, il.maml(LR)).adapt(x, y).outputs(episode.query_x[0]),
        )

    results = []
    for training in (True, True, False):
        net.train(training)
        results.append(use())
    for params, loss, outputs in results[1:]:
        assert_same(params, results[0][0], 0, 0)
        assert torch.equal(loss, results[0][1])
        assert torch.equal(outputs, results[0][2])


@EXECUTIONS
def test_regression_with_a_loss_of_ones_own(execution: str) -> None:
    net, episode = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double(), regression_episode(3)

    def huber(outputs, targets):
        return F.huber_loss(outputs, targets, delta=0.5)

    grads, info = il.meta_gradient(net, il.maml(LR, 2), episode, huber, execution=execution)
    at = trainable(net)
    loss = plain_loss(net, at, episode, sgd_step(LR), 2, huber)
    assert_same(grads, dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True)))
    torch.testing.assert_close(info.loss.mean(), loss.detach())
    assert info.query_accuracy is None


@EXECUTIONS
@pytest.mark.parametrize("name", LEARNING)
def test_a_parameter_that_the_loss_does_not_use(name: str, execution: str) -> None:
    net, episode = Spare().double(), vector_episode(3)
    with pytest.raises(ValueError, match=r"does not depend on spare\.weight, spare\.bias.*unused='ignore'"):
        il.meta_gradient(net, small(name), episode, execution=execution)
    grads, _ = il.meta_gradient(net, small(name), episode, execution=execution, unused="ignore", generator=rng())
    assert not grads["spare.weight"].any()
    assert not grads["spare.bias"].any()
    # The rest is what it is without the spare layer, but for what a rule learns in a size that counts the layers.
    net.spare.requires_grad_(False)
    without, _ = il.meta_gradient(net, small(name), episode, execution=execution, generator=rng())
    without = {n: grad for n, grad in without.items() if grad.shape == grads[n].shape}
    assert {n for n in trainable(net) if not n.startswith("spare")} <= without.keys()
    assert_same({n: grads[n] for n in without}, without)


def test_adapting_names_a_parameter_that_the_loss_does_not_use() -> None:
    net, episode = Spare().double(), vector_episode(1)
    x, y = episode.support_x[0], episode.support_y[0]
    with pytest.raises(ValueError, match=r"spare\.weight"):
        il.adapt(net, il.maml(LR), x, y)
    adapted = il.adapt(net, il.maml(LR), x, y, unused="ignore")
    assert torch.equal(adapted["spare.weight"], net.spare.weight)
    assert not torch.equal(adapted["used.weight"], net.used.weight)


def test_a_loss_that_uses_no_parameter_is_refused() -> None:
    net, episode = Spare().double(), vector_episode(2)

    def constant(outputs, targets):
        return outputs.detach().sum()

    with pytest.raises(ValueError, match="does not depend on any of the parameters"):
        il.meta_gradient(net, il.maml(LR), episode, constant)


@EXECUTIONS
@pytest.mark.parametrize("shape", [[4], [1]])
def test_a_loss_that_is_not_a_scalar_is_refused(shape: list[int], execution: str) -> None:
    episode = vector_episode(2, queries=4, support=4)

    def many(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")[: shape[0]]

    with pytest.raises(ValueError, match=rf"shape \[{shape[0]}\]; it must return a scalar"):
        il.meta_gradient(nn.Linear(4, 3).double(), il.maml(LR), episode, many, execution=execution)


def branching_episode() -> il.Episode:
    """Tasks that take different branches."""
    episode = vector_episode(4)
    shift = torch.tensor([2.0, -2.0, 2.0, -2.0], dtype=torch.float64)[:, None, None]
    return il.Episode(episode.support_x + shift, episode.support_y, episode.query_x - shift, episode.query_y)


def test_a_model_that_cannot_be_batched_runs_one_by_one() -> None:
    net, episode = Branching().double(), branching_episode()
    with pytest.warns(
        UserWarning,
        match=r"tasks run one by one: .* the module \(Branching\): .*data-dependent control flow \(test_modules.py",
    ):
        grads, info = il.meta_gradient(net, il.maml(LR, 2), episode)
    assert_same(grads, by_hand(net, episode))
    assert info.loss.shape == (4,)


def test_a_model_that_cannot_be_batched_is_right_when_run_serially() -> None:
    net, episode = Branching().double(), branching_episode()
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, execution="serial")
    assert_same(grads, by_hand(net, episode))


@pytest.mark.parametrize("execution", ["batched", 2, 1])
def test_a_model_that_cannot_be_batched_is_refused_where_asked_for(execution) -> None:
    with pytest.raises(RuntimeError, match="vmap"):
        il.meta_gradient(Branching().double(), il.maml(LR), branching_episode(), execution=execution)


@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_evaluation_falls_back_too_and_warns_once(norm: str) -> None:
    net, episode = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Branching()).double(), branching_episode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = il.evaluate(net, il.maml(LR, 1), lambda generator: episode, tasks=8, norm=norm)
    assert len([w for w in caught if "one by one" in str(w.message)]) == 1
    serial = il.evaluate(net, il.maml(LR, 1), lambda generator: episode, tasks=8, norm=norm, execution="serial")
    torch.testing.assert_close(result.loss, serial.loss, rtol=1e-12, atol=0)
    assert_no_graph(result)


def test_a_fallback_takes_the_same_mini_batches() -> None:
    net, episode = Branching().double(), branching_episode()
    method = il.reptile(0.01, 3, 2)
    with pytest.warns(UserWarning, match="one by one"):
        grads, _ = il.meta_gradient(net, method, episode, generator=rng())
    serial, _ = il.meta_gradient(net, method, episode, generator=rng(), execution="serial")
    assert_same(grads, serial, 0, 0)


def test_an_error_of_the_model_itself_is_not_taken_for_one_of_batching() -> None:
    class Broken(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of coffee")

    with pytest.raises(RuntimeError, match="out of coffee"):
        il.meta_gradient(Broken(4, 3).double(), il.maml(LR), vector_episode(2))


class Unbatchable(torch.autograd.Function):
    """Doubles, and says nothing about vmap."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[..., None])[0][:, -1])


class Custom(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Unbatchable.apply(super().forward(x))


class Listing(nn.Linear):
    """Looks at numbers, not tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + len(x.detach().flatten().tolist()))


class Numpy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(x.detach().numpy().mean())


class Unique(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * len(x.detach().unique())


@pytest.mark.parametrize(
    "make",
    [Recurrent, lambda: Custom(4, 3), lambda: Listing(4, 3), lambda: Numpy(4, 3), lambda: Unique(4, 3)],
    ids=["lstm", "autograd function", "tolist", "numpy", "unique"],
)
def test_whatever_vmap_cannot_do_falls_back(make) -> None:
    net, episode = make().double(), vector_episode(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these can be batched on some versions of torch
        grads, _ = il.meta_gradient(net, il.maml(LR, 1), episode)
    assert_same(grads, by_hand(net, episode, steps=1))


def test_a_module_without_trainable_parameters_is_refused() -> None:
    net = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the module requires a gradient"):
        il.meta_gradient(net, il.maml(LR), vector_episode(2))


def test_a_module_with_lazy_parameters_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that lazy modules are new
        net = nn.LazyLinear(3)
    with pytest.raises(ValueError, match="lazy parameters; run one forward pass"):
        il.meta_gradient(net, il.maml(LR), vector_episode(2))


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    net = nn.Linear(4, 3)
    net.last = net(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"Linear cannot be copied with copy\.deepcopy"):
        il.meta_gradient(net, il.maml(LR), vector_episode(2))


@pytest.mark.parametrize("execution", ["parallel", 0, -1, True, None, 1.5])
def test_unknown_ways_to_run_are_refused(execution) -> None:
    with pytest.raises(ValueError, match="execution is .*; choose 'auto', 'serial', 'batched'"):
        il.meta_gradient(nn.Linear(4, 3).double(), il.maml(LR), vector_episode(2), execution=execution)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unused is 'warn'; choose 'error' or 'ignore'"):
        il.meta_gradient(nn.Linear(4, 3).double(), il.maml(LR), vector_episode(2), unused="warn")
    with pytest.raises(ValueError, match="norm is 'batch'; choose one of 'transductive', 'inductive', 'running'"):
        il.meta_gradient(nn.Linear(4, 3).double(), il.maml(LR), vector_episode(2), norm="batch")


class Inner(nn.Module):
    """A user's own submodule that happens to have the name of the prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.method, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.method(x)))


@pytest.mark.parametrize("name", LEARNING)
def test_a_submodule_named_method_is_adapted_or_refused(name: str) -> None:
    """Its parameters look like what a method learns; they must not silently be left out."""
    net, episode = Inner().double(), vector_episode(2)
    try:
        adapted = il.adapt(net, small(name), episode.support_x[0], episode.support_y[0])
    except ValueError as error:
        assert "method." in str(error)  # noqa: PT017
        return
    assert adapted.keys() == dict(net.named_parameters()).keys()
    assert not torch.equal(adapted["method.weight"], net.method.weight)


@pytest.mark.parametrize("use", ["meta_gradient", "adapt", "evaluate"])
def test_values_for_parameters_that_the_module_does_not_have_are_refused(use: str) -> None:
    net, episode = nn.Linear(4, 3).double(), vector_episode(2)
    meta = {**dict(net.named_parameters()), "wieght": torch.zeros(3, 4, dtype=torch.float64)}
    x, y = episode.support_x[0], episode.support_y[0]
    run = {
        "meta_gradient": lambda: il.meta_gradient(net, il.maml(LR), episode, meta_params=meta),
        "adapt": lambda: il.adapt(net, il.maml(LR), x, y, meta_params=meta),
        "evaluate": lambda: il.evaluate(net, il.maml(LR), lambda generator: episode, tasks=2, meta_params=meta),
    }
    with pytest.raises(ValueError, match="wieght"):
        run[use]()


def test_given_values_are_used_instead_of_the_modules_own() -> None:
    net, other, episode = nn.Linear(4, 3).double(), nn.Linear(4, 3).double(), vector_episode(3)
    meta = dict(other.named_parameters())
    grads, _ = il.meta_gradient(net, il.maml(LR, 2), episode, meta_params=meta)
    assert_same(grads, by_hand(other, episode))
    result = il.evaluate(net, il.maml(LR, 2), lambda generator: episode, tasks=3, meta_params=meta)
    expected = il.evaluate(other, il.maml(LR, 2), lambda generator: episode, tasks=3)
    assert torch.equal(result.loss, expected.loss)
    assert all(p.grad is None for p in meta.values())
