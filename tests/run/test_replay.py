"""Recorded meta-gradients: the same bits as the computation, for every method and model, or none at all."""

from __future__ import annotations

import gc
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from core_helpers import LEARNING, headed, image_episode, rng, small, vector_episode
from model_zoo import MODELS, Model, missing
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

import innerloop as il
from innerloop.engine.engine import Engine
from innerloop.engine.replay import replays
from innerloop.engine.replay.program import Program
from innerloop.engine.replay.recorder import Recorder
from innerloop.engine.replay.refused import RefusedError

SPARSE = torch.eye(3).to_sparse()
METHODS = pytest.mark.parametrize("name", LEARNING)
RANDOM = [
    name for name in MODELS if any(sign in name for sign in ("dropout", "Bert", "BERT", "LoRA", "dot_product", "mask"))
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "AFTER", 2)


def mlp() -> nn.Module:
    return il.nets.mlp(4, 3, (8,)).double()


def conv() -> nn.Module:
    return il.nets.conv4(5, filters=8).double()


def kinds(engine: Engine) -> list[replays._Kind]:
    return list(engine._replays._kinds.values())


def recorded(engine: Engine) -> bool:
    """Whether all that the engine computes comes from recordings."""
    return bool(kinds(engine)) and all(kind.recording is not None and not kind.ordinary for kind in kinds(engine))


def same_bits(one: object, other: object) -> bool:
    flat = [pytree.tree_leaves(thing if isinstance(thing, dict) else vars(thing)) for thing in (one, other)]
    return len(flat[0]) == len(flat[1]) and all(map(replays._same, *flat))


def compare(net: nn.Module, method: il.Method, episode: Callable[[int], il.Episode], **options) -> Engine:
    """Six meta-gradients, each of an engine that records and of one that does not; the engine that does."""
    engine, plain = Engine(net, **options), Engine(net, replay="off", **options)
    for seed in range(6):
        results = []
        for one in (engine, plain):
            torch.manual_seed(seed)
            results.append(one.meta_gradient(method, episode(seed), generator=rng(seed)))
        assert all(map(same_bits, *results)), seed
    assert not kinds(plain)
    return engine


@METHODS
@pytest.mark.parametrize("execution", ["batched", "serial"])
def test_every_method_is_recorded_to_the_bit(name: str, execution: str) -> None:
    net = headed(mlp(), name)
    engine = compare(net, small(name), lambda seed: vector_episode(3, seed=seed), execution=execution, unused="ignore")
    assert recorded(engine)


@pytest.mark.parametrize("name", ["maml", "fomaml", "reptile", "imaml", "alfa"])
@pytest.mark.parametrize("norm", ["transductive", "inductive"])
def test_convolutions_are_recorded_to_the_bit(name: str, norm: il.Norm) -> None:
    engine = compare(conv(), small(name), lambda seed: image_episode(4, seed=seed), execution=2, norm=norm)
    assert recorded(engine)
    (kind,) = kinds(engine)
    assert kind.calls == 11  # the first chunk of all proves the model


@pytest.mark.parametrize("estimator", [il.unrolled, il.checkpointed, il.mixed_mode, il.first_order])
def test_every_estimator_is_recorded_to_the_bit(estimator) -> None:
    method = il.maml(0.05, 7, meta_gradient=estimator())
    method = replace(method, adaptation=replace(method.adaptation, rule=il.rules.sgd(0.05, momentum=0.9)))
    assert recorded(compare(conv(), method, lambda seed: image_episode(3, seed=seed)))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_gives_the_same_bits(name: str) -> None:
    model: Model = MODELS[name]
    if missing(model):
        pytest.skip(f"needs {missing(model)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what cannot be batched
        engine = compare(
            model.net(),
            model.method("maml"),
            lambda seed: model.episode(seed=seed),
            loss_fn=model.loss_fn,
            norm=model.norm,
        )
    values = model.serial is not None  # which look at values, and so run one by one
    # Code of other libraries looks attributes up by computed names, which cannot be followed.
    assert recorded(engine) or name in RANDOM or values or model.needs


def test_what_a_collection_of_garbage_calls_is_no_part_of_it() -> None:
    timed: list[float] = []
    gc.callbacks.append(lambda phase, info: timed.append(time.perf_counter()))
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        assert recorded(compare(mlp(), il.maml(0.1), lambda seed: vector_episode(seed=seed)))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.pop()
    assert timed
    assert gc.isenabled()


def test_threads_share_a_recording() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        engine = compare(conv(), il.maml(0.1), lambda seed: image_episode(8, seed=seed), execution=1)
    finally:
        torch.set_num_threads(before)
    assert recorded(engine)


def test_tensors_with_gaps_and_shared_memory() -> None:
    def episode(seed: int) -> il.Episode:
        whole = torch.randn(6, 10, 8, generator=rng(seed), dtype=torch.float64)
        x, y = whole[::2, :5, ::2], torch.randint(3, (5,), generator=rng(seed)).expand(3, 5)
        return il.Episode(x, y, whole[::2, 5:, ::2], y)

    assert recorded(compare(mlp(), il.maml(0.1, 3), episode))


def test_sizes_and_methods_are_told_apart() -> None:
    engine, methods = Engine(mlp()), [il.maml(0.1), il.maml(0.2)]
    plain = Engine(mlp_like(engine), replay="off")
    for seed in range(5):
        for method in methods:
            for tasks in (2, 3):
                episode = vector_episode(tasks, seed=seed)
                assert same_bits(engine.meta_gradient(method, episode)[0], plain.meta_gradient(method, episode)[0])
    assert recorded(engine)
    assert len(kinds(engine)) == 4


def mlp_like(engine: Engine) -> nn.Module:
    return engine.model.module


def test_recordings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST", 3)
    engine = Engine(mlp())
    for tasks in (1, 2, 3, 4, 5):
        for _ in range(4):
            engine.meta_gradient(il.maml(0.1), vector_episode(tasks))
    assert len(kinds(engine)) == 3


class Looks(nn.Module):
    """Does one thing or another, by the values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


class Leaves(Looks):
    """Computes outside PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.from_numpy(x.detach().numpy() ** 2))


class Counts(Looks):
    """Is another function each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) / self.calls


class Draws(Looks):
    """Draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.dropout(x))


def hooked() -> nn.Module:
    net = mlp()
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


@pytest.mark.parametrize("make", [Looks, Leaves, Draws, hooked])
def test_what_is_more_than_its_tensors_is_not_recorded(make) -> None:
    engine = compare(
        make(),
        il.maml(0.1),
        lambda seed: vector_episode(3, seed=seed),
        execution="serial",
        unused="ignore",
    )
    assert not recorded(engine)


def test_a_module_that_changes_itself_is_not_recorded() -> None:
    engine, method = Engine(Counts()), il.maml(0.1)
    for seed in range(5):
        engine.meta_gradient(method, vector_episode(3, seed=seed))
    assert not recorded(engine)
    assert kinds(engine)[0].ordinary


class Averages(Looks):
    """Takes no more than a mean out of PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - float(x.detach().numpy().mean()))


@pytest.mark.parametrize("make", [Leaves, Averages])
def test_the_same_data_again_and_again_prove_nothing(make) -> None:
    engine = compare(make(), il.maml(0.1), lambda seed: vector_episode(3), execution="serial")
    assert not recorded(engine)


def test_recording_has_other_data_and_no_part_in_the_result() -> None:
    engine, method, seen = Engine(mlp(), replay="always"), il.maml(0.1), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(recording())
        if seen[-1]:
            raise ValueError("not while recording")
        return F.cross_entropy(outputs, targets)

    def recording() -> bool:
        return any(isinstance(mode, Recorder) for mode in _get_current_dispatch_mode_stack())

    engine.loss_fn = loss
    results = [engine.meta_gradient(method, vector_episode(3))[0] for _ in range(6)]
    assert any(seen)
    assert all(same_bits(one, results[0]) for one in results)
    assert not recorded(engine)


class Remembers(nn.Module):
    """Has PyTorch's own recurrent layer, which gives its derivative what is no tensor, in float32 at least."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.layer = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.rnn(x[:, None].float())[0][:, -1])


def test_recurrent_layers_one_by_one() -> None:
    compare(Remembers(), il.fomaml(0.1), lambda seed: vector_episode(3, seed=seed), execution="serial")


def test_a_loss_that_changes_is_another_one() -> None:
    engine, weight = Engine(mlp()), 1.0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return weight * F.cross_entropy(outputs, targets)

    engine.loss_fn = loss
    method, episode = il.fomaml(0.0), vector_episode(3)
    once = [engine.meta_gradient(method, episode)[0] for _ in range(5)][-1]
    assert recorded(engine)
    weight = 2.0
    twice = engine.meta_gradient(method, episode)[0]
    for name, grad in once.items():
        torch.testing.assert_close(twice[name], 2 * grad)


def test_a_broken_promise_is_found_and_said() -> None:
    weights = [1.0]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return weights[0] * F.cross_entropy(outputs, targets)

    engine = Engine(mlp(), loss, replay="always")
    method, episode = il.maml(0.1), vector_episode(3)
    for _ in range(5):
        engine.meta_gradient(method, episode)
    assert recorded(engine)
    weights[0] = 2.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(replays.COMPARED[2]):
            last = engine.meta_gradient(method, episode)[0]
    assert ["replay='off'" in str(warning.message) for warning in caught] == [True]
    assert same_bits(last, Engine(engine.model.module, loss).meta_gradient(method, episode)[0])


def test_a_replay_that_fails_is_computed() -> None:
    engine, method, episode = Engine(mlp()), il.maml(0.1), vector_episode(3)
    expected = [engine.meta_gradient(method, episode)[0] for _ in range(5)][-1]

    def fails(*_: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError("can't allocate memory")

    kind = kinds(engine)[0]
    kind.recording = replace(kind.recording, program=fails)
    assert same_bits(engine.meta_gradient(method, episode)[0], expected)


# -- the recorder itself ------------------------------------------------------------------------------------------


def again(fn: Callable[..., list[Tensor]], *inputs: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    with Recorder(inputs) as recorder:
        outputs = fn(*inputs)
    return Program(recorder, recorder.outputs(outputs))


def test_views_of_views_and_changes_in_place() -> None:
    def fn(x: Tensor, y: Tensor) -> list[Tensor]:
        z = x @ y
        z[1:, ::2] += 1
        z.t()[0].mul_(3)
        first, second = z.split(2)
        return [z[:, 1], torch.cat([first.t(), second.t() * y[0, 0]]), x, y.t()]

    g = rng()
    inputs = [[torch.randn(4, 4, generator=g) for _ in range(2)] for _ in range(2)]
    replay = again(fn, *inputs[0])
    for one, other in zip(replay(*inputs[1]), fn(*inputs[1]), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


def test_constants_are_looked_at_again() -> None:
    constant = torch.ones(3)
    replay = again(lambda x: [x * constant + torch.tensor([1.0, 2.0, 3.0])], torch.zeros(3))
    constant.fill_(2)
    assert replay(torch.ones(3))[0].tolist() == [3, 4, 5]


def test_what_nothing_depends_on_is_left_out() -> None:
    def fn(x: Tensor) -> list[Tensor]:
        (x * 5).exp_()
        return [x + 1]

    x = torch.ones(3)
    with Recorder([x]) as recorder:
        outputs = recorder.outputs(fn(x))
    assert len(recorder.entries) == 3
    assert len(Program(recorder, outputs).steps) == 1


def test_several_results_and_lists() -> None:
    def fn(x: Tensor) -> list[Tensor]:
        value, index = x.max(1)
        mean = torch.var_mean(torch.stack([value, x[:, 0]]), 1)
        return [index, *mean, x[index, :1], *x.unbind(0)]

    x, y = torch.randn(3, 3, generator=rng(1)), torch.randn(3, 3, generator=rng(2))
    replay = again(fn, x)
    for one, other in zip(replay(y), fn(y), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x: [x * x.sum().item()], "reads item"),
        (lambda x: [x[x > 0]], "depends on values"),
        (lambda x: [torch.rand_like(x)], "random numbers"),
        (lambda x: [x.add_(1)], "in place"),
        (lambda x: [torch.complex(x, x).conj() * 2], "unusual kind"),
        (lambda x: [x.to_sparse().to_dense() * 1], "unusual kind"),
        (lambda x: [torch.sparse.mm(SPARSE, x[:, None])], "unusual kind"),
        (lambda x: [(x * 1).view(torch.int32) + 1], "of another type"),
    ],
)
def test_what_cannot_be_written_down(fn, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        again(fn, torch.randn(3, generator=rng()))


def test_memory_is_let_go_of() -> None:
    """A chain of tensors needs a few at a time, however long it is."""
    replay = again(lambda x: [x.exp().exp().exp().exp().exp().exp().exp().exp().exp().exp()], torch.ones(3))
    alive, most = 0, 0

    def died() -> None:
        nonlocal alive
        alive -= 1

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal alive, most
            result = func(*args, **(kwargs or {}))
            weakref.finalize(result, died)
            alive += 1
            most = max(most, alive)
            return result

    with Counted():
        replay(torch.ones(3))
    assert most <= 3
