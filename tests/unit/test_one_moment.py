"""Each call sees one model: the module as it is at the call, in all chunks, in all threads, as the caller would."""

from __future__ import annotations

import contextvars
import threading
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, image_episode, vector_episode
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import innerloop as il
from innerloop.engine.caller import Caller
from innerloop.engine.engine import Engine
from innerloop.engine.runtime import Runtime, runtime


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Scaled(nn.Module):
    """Reads modes, buffers and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("shift", torch.zeros(3))
        self.scale, self.options = 1.0, {"power": 1}

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x) * self.scale + self.shift
        return (y if self.training else 2 * y) ** self.options["power"]


def assigned(net: Scaled) -> None:
    net.load_state_dict({name: torch.rand_like(t) for name, t in net.state_dict().items()}, assign=True)


CHANGES: dict[str, Callable[[Scaled], object]] = {
    "loaded values": lambda net: net.load_state_dict({n: torch.rand_like(t) for n, t in net.state_dict().items()}),
    "assigned values": assigned,
    "a buffer": lambda net: setattr(net, "shift", torch.ones(3, dtype=torch.float64)),
    "a buffer's values": lambda net: net.shift.add_(1),
    "a buffer's data": lambda net: setattr(net.shift, "data", torch.ones(3, dtype=torch.float64)),
    "the mode": lambda net: net.eval(),
    "an attribute": lambda net: setattr(net, "scale", 2.0),
    "a value in a dictionary": lambda net: net.options.update(power=2),
    "a frozen parameter": lambda net: net.layer.bias.requires_grad_(False),
    "another layer": lambda net: setattr(net, "layer", nn.Linear(4, 3).double()),
}


@pytest.mark.parametrize("early", [True, False], ids=["before the first call", "after some"])
@pytest.mark.parametrize("execution", ["serial", 2, "batched"])
@pytest.mark.parametrize("change", CHANGES)
def test_all_chunks_see_the_module_as_it_is(change: str, execution: il.Execution, early: bool) -> None:
    net, method, episode = Scaled().double(), il.maml(0.1, 2), vector_episode(6)
    engine = Engine(net, execution=execution)
    for _ in range(0 if early else 5):
        engine.meta_gradient(method, episode)
    CHANGES[change](net)
    expected, _ = Engine(net, execution=execution).meta_gradient(method, episode)
    assert_same(engine.meta_gradient(method, episode)[0], expected)
    x, y = episode.support_x[0], episode.support_y[0]
    assert_same(engine.adapt(method, x, y), il.adapt(net, method, x, y))


def test_threads_compute_in_the_callers_precision() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    episode = vector_episode(6).map(lambda t: t.float() if t.is_floating_point() else t)
    engine, seen = Engine(net, execution="serial"), []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append((outputs.dtype, torch.is_autocast_cache_enabled(), variable.get()))
        return F.cross_entropy(outputs.float(), targets)

    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    engine.loss_fn = loss
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            engine.meta_gradient(il.maml(0.1), episode)
    assert set(seen) == {(torch.bfloat16, False, 7)}
    assert not torch.is_autocast_enabled("cpu")


def test_what_cannot_be_taken_along_keeps_chunks_in_the_callers_thread() -> None:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    engine, seen = Engine(nn.Linear(4, 3).double(), execution=2), set()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(threading.get_ident())
        return F.cross_entropy(outputs, targets)

    engine.loss_fn = loss
    for around in (Mode(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)):
        with around:
            assert Caller.now().bound_to is not None
            for _ in range(2):
                engine.meta_gradient(il.fomaml(0.1), vector_episode(6))
    assert seen == {threading.get_ident()}
    assert Caller.now().bound_to is None
    Engine(nn.Linear(4, 3).double(), loss, execution=2).meta_gradient(il.fomaml(0.1), vector_episode(6))
    assert len(seen) > 1


@pytest.mark.parametrize("net", ["linear", "conv"])
def test_one_engine_in_four_threads(net: str) -> None:
    conv = net == "conv"
    module = il.nets.conv4(5, filters=4).double() if conv else nn.Linear(4, 3).double()
    episodes = [image_episode(2, seed=s) if conv else vector_episode(4, seed=s) for s in range(4)]
    method, wrong = il.maml(0.1), []
    expected = [Engine(module, execution=1).meta_gradient(method, episode)[0] for episode in episodes]
    engine = Engine(module, execution=1)

    def run(number: int) -> None:
        for _ in range(6 if conv else 60):
            grads, _ = engine.meta_gradient(method, episodes[number])
            if not all(torch.allclose(grads[n], g, rtol=1e-9) for n, g in expected[number].items()):
                wrong.append(number)

    in_threads(run)
    assert not wrong
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("net", ["linear", "conv"])
def test_one_learner_in_four_threads(net: str) -> None:
    conv = net == "conv"
    module = il.nets.conv4(5, filters=4).double() if conv else nn.Linear(4, 3).double()
    episodes = [image_episode(1, seed=s) if conv else vector_episode(1, seed=s) for s in range(4)]
    learner, wrong = il.Learner(module, il.maml(0.5, 2)), []

    def outputs(number: int) -> Tensor:
        episode = episodes[number]
        return learner.adapt(episode.support_x[0], episode.support_y[0]).outputs(episode.query_x[0])

    expected = [outputs(number) for number in range(4)]

    def run(number: int) -> None:
        for _ in range(5 if conv else 50):
            if not torch.allclose(outputs(number), expected[number], rtol=1e-9):
                wrong.append(number)

    in_threads(run)
    assert not wrong


def in_threads(run: Callable[[int], None]) -> None:
    failed: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            run(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# -- the trainer -----------------------------------------------------------------------------------------------------


def trainer(net: nn.Module) -> il.MetaTrainer:
    return il.MetaTrainer(net, il.meta_sgd(0.1), lambda params: torch.optim.SGD(params, 0.5, momentum=0.9))


def test_a_parameter_frozen_later_is_not_updated() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).double()
    one = trainer(net)
    one.step(vector_episode(3))
    net[0].requires_grad_(False)
    before = {name: p.detach().clone() for name, p in one.meta_params.items()}
    for _ in range(3):
        one.step(vector_episode(3))
    moved = {name for name, p in one.meta_params.items() if not torch.equal(p, before[name])}
    assert {"1.weight", "1.bias"} < moved
    assert not {"0.weight", "0.bias"} & moved
    assert not any(name.startswith("method.") and ".0." in f".{name}" for name in moved)
    one.evaluate(lambda generator: vector_episode(2), tasks=2)
    one.learner()
    net[0].requires_grad_(True)
    one.step(vector_episode(3))
    assert not torch.equal(one.meta_params["0.weight"], before["0.weight"])


@pytest.mark.parametrize("change", ["added", "replaced", "unfrozen", "removed"])
def test_other_parameters_are_refused_by_name(change: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3)).double()
    net.register_parameter("spare", nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False))
    one = trainer(net)
    one.step(vector_episode(3))
    changes: dict[str, Callable[[], object]] = {
        "added": lambda: net.add_module("spare2", nn.Linear(1, 1)),
        "replaced": lambda: setattr(net[0], "weight", nn.Parameter(torch.zeros(3, 4, dtype=torch.float64))),
        "unfrozen": lambda: net.spare.requires_grad_(True),
        "removed": lambda: net[0].register_parameter("bias", None),
    }
    changes[change]()
    name = {"added": "spare2.weight", "replaced": "0.weight", "unfrozen": "spare", "removed": "0.bias"}[change]
    with pytest.raises(ValueError, match=f"the parameters .*{name}.* make a new trainer"):
        one.step(vector_episode(3))


# -- inference mode, and what cannot be batched ----------------------------------------------------------------------


def test_inference_mode_is_left_for_the_call() -> None:
    net, method = nn.Linear(4, 3).double(), il.maml(0.1)
    with torch.inference_mode():
        episode = vector_episode(3)
        grads, info = il.meta_gradient(net, method, episode)
        params = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
        predictor = il.Learner(net, method).adapt(episode.support_x[0], episode.support_y[0])
        predictor.predict(episode.query_x[0])
    assert_same(grads, il.meta_gradient(net, method, vector_episode(3))[0])
    again = vector_episode(3)
    assert_same(params, il.adapt(net, method, again.support_x[0], again.support_y[0]))


class Checkpoints(nn.Module):
    """Uses what vmap cannot batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=False)


def test_what_cannot_be_batched_is_said_where_batching_was_asked_for() -> None:
    net, episode = Checkpoints().double(), vector_episode(4)
    # Older releases of PyTorch notice it elsewhere.
    why = "(it keeps tensors beyond|You tried to vmap over _NoopSaveInputs)"
    with pytest.raises(RuntimeError, match=f"execution=2 runs tasks together, .*{why}.*'serial'"):
        il.meta_gradient(net, il.maml(0.1), episode, execution=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        il.meta_gradient(net, il.fomaml(0.1), episode, execution="serial")


# -- what is set for the whole process -------------------------------------------------------------------------------


def test_the_process_is_as_it_was() -> None:
    assert isinstance(il.runtime, Runtime)
    assert not runtime.keeps_memory
    il.meta_gradient(nn.Linear(4, 3).double(), il.maml(0.1), vector_episode(6), execution=2)
    assert torch.get_num_threads() == 2
    assert not runtime.keeps_memory


def test_the_cores_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime.undisturbed():
        assert torch.get_num_threads() == 1
    monkeypatch.setattr(runtime, "share_cores", False)
    with runtime.undisturbed():
        assert torch.get_num_threads() == 2
    assert "share_cores=False" in runtime.describe()


def test_a_thread_that_begins_within_a_call_knows_the_cores() -> None:
    seen: list[int] = []

    def look() -> None:
        with runtime.undisturbed():
            seen.append(runtime.cores())

    with runtime.undisturbed():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [2]
    assert torch.get_num_threads() == 2
