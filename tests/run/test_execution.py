"""How tasks are run changes how long it takes, and nothing else."""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from core_helpers import assert_same, image_episode, smooth_net, vector_episode
from torch import Tensor, nn
from torch.nn import functional as F

import innerloop as il
from innerloop.engine.engine import Engine
from innerloop.engine.plans import Plan, candidates, planned
from innerloop.engine.runtime import runtime
from innerloop.engine.threads import Workers
from innerloop.inner.model import StatelessModel
from innerloop.learner.files import load_state


@pytest.fixture
def two_threads() -> Iterator[None]:
    yield from threads(2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    yield from threads(1)


def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", il.METHODS)
def test_threads_give_what_one_gives(name: str, two_threads: None) -> None:
    from core_helpers import headed, small

    net, episode, method = headed(il.nets.conv4(5, filters=8).double(), name), image_episode(tasks=4), small(name)
    results = []
    for threads, calls in ((1, 1), (2, 2)):
        torch.set_num_threads(threads)
        engine = Engine(net, execution=2)
        for _ in range(calls):  # the first chunk of the first call runs alone
            grads, info = engine.meta_gradient(method, episode, generator=torch.Generator().manual_seed(0))
        results.append((grads, info))
    (one, one_info), (two, two_info) = results
    assert_same(two, one)
    torch.testing.assert_close(two_info.support_losses, one_info.support_losses)


def test_threads_run_side_by_side_and_leave_the_callers_settings(two_threads: None) -> None:
    meeting = threading.Barrier(2, timeout=30)  # passes only if two threads are in it at once

    model = StatelessModel(smooth_net())

    def run(job: int) -> tuple[int, int, int]:
        meeting.wait()
        return job, torch.get_num_threads(), id(model.module)

    results = list(Workers().map(run, [1, 2, 3, 4], threads=2))
    assert [job for job, _, _ in results] == [1, 2, 3, 4]
    assert {threads for _, threads, _ in results} == {1}
    assert len({model for _, _, model in results}) == 2
    assert torch.get_num_threads() == 2


def test_an_error_in_a_thread_reaches_the_caller(two_threads: None) -> None:
    net, episode = smooth_net(), vector_episode(tasks=6)
    engine, method = Engine(net, execution=2), il.maml(0.1)
    engine.meta_gradient(method, episode)
    wrong = il.Episode(*(episode.support_x, episode.support_y + 7) * 2)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        engine.meta_gradient(method, wrong)


def test_random_numbers_come_in_the_same_order_each_time(two_threads: None) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    episode, engine = vector_episode(tasks=8), Engine(net, execution=2)
    runs = []
    for _ in range(3):
        torch.manual_seed(0)
        runs.append(engine.meta_gradient(il.maml(0.1, 2), episode)[0])
    for other in runs[1:]:
        for name, grad in other.items():
            assert torch.equal(grad, runs[0][name])


def test_a_plan_depends_on_sizes_only(two_threads: None) -> None:
    engine, adaptation = Engine(il.nets.conv4(5)), il.maml().adaptation
    small, large = image_episode(tasks=32), image_episode(tasks=32, queries=75)
    plans = [planned("auto", engine.model, adaptation, episode) for episode in (small, large)]
    assert [plan.threads for plan in plans] == [2, 2]
    assert plans[0].tasks > plans[1].tasks >= 1
    assert planned("serial", engine.model, adaptation, small) == Plan(1, batched=False, threads=2)
    assert planned(3, engine.model, adaptation, small) == Plan(3, threads=2)
    timed = candidates("auto", engine.model, adaptation, small)
    assert timed[0] == plans[0]
    assert len(set(timed)) == len(timed) > 3
    assert any(not plan.batched for plan in timed)
    assert candidates(3, engine.model, adaptation, small) == [Plan(3, threads=2)]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("execution", ["auto", "serial", "batched", 1, 3])
def test_the_first_call_gives_the_bits_of_all_others(execution: Any, dropout: float, two_threads: None) -> None:
    """So that a run which goes on in a new process goes on to the same bits: threads decide how sums are rounded."""
    counts: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        counts.append(torch.get_num_threads())
        return F.cross_entropy(outputs, targets)

    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 5)).train()
    x, y = torch.randn(4, 50, 1, 28, 28), torch.randint(5, (4, 50))
    engine, method = Engine(net, loss, execution=execution), il.reptile(0.1, 2, None)
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        counts.clear()
        found.append((engine.meta_gradient(method, il.Episode(x, y, x, y))[0], len(counts), set(counts)))
    first, *later = found
    for grads, _, threads in later:
        assert_same(grads, first[0], 0, 0)
        assert threads <= first[2]  # nothing, where a recording serves
    if dropout == 0.0:
        assert len(first[2]) == 1


def test_calibration_goes_on_with_what_was_fastest(monkeypatch: pytest.MonkeyPatch, two_threads: None) -> None:
    net, episode, method = smooth_net(), vector_episode(tasks=8), il.maml(0.1)
    engine = Engine(net)
    before = engine.meta_gradient(method, episode)[0]
    state = torch.random.get_rng_state()
    clock = iter(range(10**6))
    times: dict[Plan, int] = {}

    def slower_by_plan() -> float:
        # A clock that gives each plan its own length: the fourth of the candidates is made the fastest.
        plan = engine.plan(method.adaptation, episode)
        rank = times.setdefault(plan, len(times))
        return next(clock) * (1.0 if rank != 3 else 0.001)

    monkeypatch.setattr("innerloop.engine.calibrate.time.perf_counter", slower_by_plan)
    seconds = engine.calibrate(method, episode, rounds=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert engine.plan(method.adaptation, episode) == min(seconds, key=seconds.__getitem__) == next(iter(seconds))
    assert_same(engine.meta_gradient(method, episode)[0], before)
    assert Engine(net, execution=2).calibrate(method, episode) == {}


class OutOfMemoryAbove(nn.Module):
    """Runs out of memory when more than so many tasks are mapped together."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.linear, self.limit = nn.Linear(4, 3).double(), limit

    def forward(self, x: Tensor) -> Tensor:
        functorch = torch._C._functorch
        if functorch.is_batchedtensor(x) and len(functorch.get_unwrapped(x)) > self.limit:
            raise torch.OutOfMemoryError("no memory left")
        return self.linear(x)


def test_a_chunk_too_large_for_memory_is_halved() -> None:
    net, episode = OutOfMemoryAbove(2), vector_episode(tasks=8)
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine = Engine(net)
        with pytest.warns(UserWarning, match="out of memory with [84] tasks together; going on with [42] ") as caught:
            grads = engine.meta_gradient(il.maml(0.1), episode)[0]
        assert len(caught) == 2
        assert engine.plan(il.maml(0.1).adaptation, episode).tasks == 2
        assert_same(grads, il.meta_gradient(net, il.maml(0.1), episode, execution="serial")[0])
        with pytest.raises(torch.OutOfMemoryError):
            il.meta_gradient(net, il.maml(0.1), episode, execution=4)
    finally:
        torch.set_num_threads(torch_threads)


def test_bfloat16_is_close_and_leaves_parameters_alone() -> None:
    net = il.nets.conv4(5, filters=8)
    episode = image_episode(tasks=2).map(lambda t: t.float() if t.is_floating_point() else t)
    full = Engine(net).meta_gradient(il.fomaml(0.01), episode)[0]
    rough = Engine(net, precision="bf16").meta_gradient(il.fomaml(0.01), episode)[0]
    assert {grad.dtype for grad in rough.values()} == {torch.float32}
    apart = torch.cat([(rough[name] - grad).flatten() for name, grad in full.items()]).norm()
    whole = torch.cat([grad.flatten() for grad in full.values()]).norm()
    assert 1e-6 < float(apart / whole) < 0.3
    with pytest.raises(ValueError, match="precision is 'half'; choose one of 'full', 'tf32', 'bf16'"):
        Engine(net, precision="half")


def test_tf32_is_a_setting_of_the_run_only() -> None:
    before = torch.get_float32_matmul_precision()
    seen = []
    net = smooth_net()
    net.register_forward_pre_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    Engine(net, precision="tf32").meta_gradient(il.maml(0.1), vector_episode(tasks=2))
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == before


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * (2 if bool(x.sum() > 0) else 1)


def test_what_cannot_be_compiled_says_so_and_runs() -> None:
    net, episode = Branching(), vector_episode(tasks=2)
    engine, method = Engine(net, execution="serial", compile=True), il.maml(0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = [engine.meta_gradient(method, episode)[0] for _ in range(3)]
    assert sum("cannot be compiled" in str(w.message) for w in caught) == 1
    for grads in results:
        assert_same(grads, il.meta_gradient(net, il.maml(0.1), episode, execution="serial")[0])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_meta_gradient_is_the_same() -> None:
    net, episode, method = nn.Linear(4, 3).double(), vector_episode(tasks=2), il.maml(0.1)
    engine = Engine(net, execution="batched", compile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler
        warnings.filterwarnings("error", message=".*cannot be compiled")
        for seed in range(3):  # the first call proves the model, the second compiles, the third only runs
            tasks = vector_episode(tasks=2, seed=seed)
            grads, info = engine.meta_gradient(method, tasks)
            expected, observed = il.meta_gradient(net, method, tasks, execution="serial")
            assert_same(grads, expected)
            torch.testing.assert_close(info.loss, observed.loss)
            torch.testing.assert_close(info.query_accuracy, observed.query_accuracy)
    assert len(engine._compiled._graphs) == 1
    assert all(graph is not None for graph, _ in engine._compiled._graphs.values())
    assert episode.tasks == 2


def test_a_compiled_graph_with_other_values_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, **options: Any) -> Any:
        return lambda *tensors: [t + 1 if isinstance(t, Tensor) else t for t in graph(*tensors)]

    monkeypatch.setattr(torch, "compile", wrong)
    net, method, tasks = nn.Linear(4, 3).double(), il.maml(0.1), vector_episode(tasks=2)
    engine = Engine(net, execution="batched", compile=True)
    engine.meta_gradient(method, tasks)  # proves the model; the next call compiles
    with pytest.warns(UserWarning, match="gives other values than the ordinary computation"):
        compiling, _ = engine.meta_gradient(method, tasks)
    later, _ = engine.meta_gradient(method, tasks)
    expected, _ = il.meta_gradient(net, method, tasks, execution="serial")
    assert_same(compiling, expected)
    assert_same(later, expected)


def trainer(execution: str = "auto") -> il.MetaTrainer:
    torch.manual_seed(0)
    return il.MetaTrainer(
        smooth_net(), il.maml(0.1), lambda params: torch.optim.Adam(params, 1e-2), execution=execution
    )


def test_a_timed_run_says_what_it_takes_and_resumes_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def episodes(generator: torch.Generator) -> il.Episode:
        return vector_episode(tasks=8, seed=int(torch.randint(100, (), generator=generator)))

    whole = trainer("fastest")
    whole.fit(episodes, 6, folder=tmp_path / "whole", save_every=2)
    said = capsys.readouterr().err
    assert "running" in said
    assert "s a meta-batch" in said
    assert "times as long" in said
    chosen = whole._engine.execution
    assert chosen != "auto"

    first, second = trainer("fastest"), trainer("fastest")
    first._engine.execution = chosen  # timings differ from run to run
    first.fit(episodes, 3, folder=tmp_path / "parts", save_every=2)
    second.fit(episodes, 6, folder=tmp_path / "parts", resume=True)
    assert second._engine.execution == chosen
    for name, parameter in whole.meta_params.items():
        assert torch.equal(parameter, second.meta_params[name])


def test_a_choice_by_timing_is_saved_before_the_first_iteration(tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    run = trainer("fastest")
    run.optimizer.register_step_pre_hook(killed)
    with pytest.raises(KilledError):
        run.fit(lambda generator: vector_episode(tasks=8), 6, folder=tmp_path, progress=False)
    saved = load_state(tmp_path / "checkpoint.safetensors")
    assert saved["iteration"] == 0
    assert saved["execution"] == run._engine.execution != "auto"


def test_nothing_is_decided_by_timing_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two runs of one seed would take other plans, and end with other bits."""

    def timed(*_: object, **__: object) -> None:
        raise AssertionError("the ways to run tasks are timed")

    monkeypatch.setattr(Engine, "calibrate", timed)
    run = trainer()
    run.fit(lambda generator: vector_episode(tasks=8), 1200, progress=False)
    assert run._engine.execution == "auto"
    with pytest.raises(AssertionError, match="are timed"):
        trainer("fastest").fit(lambda generator: vector_episode(tasks=8), 1, progress=False)


def test_a_plan_sees_weights_and_words(one_thread: None) -> None:
    def tasks_of(net: nn.Module, shape: tuple[int, ...], steps: int = 5, **options: object) -> Plan:
        x = torch.zeros(64, 2, *shape)
        x = x.long() if isinstance(net[0], nn.Embedding) else x
        method = il.maml(0.1, steps, **options)
        return planned("auto", Engine(net).model, method.adaptation, il.Episode(x, x, x, x))

    small, large = (nn.Sequential(nn.Linear(8, width), nn.Linear(width, width)) for width in (8, 1024))
    assert tasks_of(small, (8,)) == Plan(64)
    assert tasks_of(large, (8,)).tasks < tasks_of(large, (8,), steps=1).tasks
    assert tasks_of(large, (8,), adapt="0.*") == Plan(64)
    words, vectors = nn.Sequential(nn.Embedding(9, 512), nn.Linear(512, 2)), nn.Sequential(nn.Linear(512, 2))
    assert tasks_of(words, (50,)) == tasks_of(vectors, (50, 512))
    assert tasks_of(words, (50,)).tasks < 64


def test_no_operation_outside_chunks_is_shared_among_threads(two_threads: None) -> None:
    """Else OpenMP's threads would go on spinning on the cores that the chunks need."""
    assert (runtime.cores(), torch.get_num_threads()) == (2, 2)
    with runtime.undisturbed():
        assert (runtime.cores(), torch.get_num_threads()) == (2, 1)
        with runtime.undisturbed(), runtime.on_all_cores():
            assert (runtime.cores(), torch.get_num_threads()) == (2, 2)
        assert (runtime.cores(), torch.get_num_threads()) == (2, 1)
    assert (runtime.cores(), torch.get_num_threads()) == (2, 2)


@pytest.mark.parametrize(("execution", "inside"), [(2, 1), ("batched", 2)])
def test_training_leaves_the_cores_to_the_chunks(execution: il.Execution, inside: int, two_threads: None) -> None:
    seen: dict[str, set[int]] = {"loss": set(), "sampling": set(), "outer step": set()}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen["loss"].add(torch.get_num_threads())
        return F.cross_entropy(outputs, targets)

    def sample(generator: torch.Generator) -> il.Episode:
        seen["sampling"].add(torch.get_num_threads())
        return vector_episode(4)

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen["outer step"].add(torch.get_num_threads())
            return super().step(closure)

    net = il.nets.mlp(4, 3, (5,)).double()
    trainer = il.MetaTrainer(net, il.maml(0.1), lambda params: Watched(params, 0.1), loss_fn=loss, execution=execution)
    trainer.fit(sample, 2, progress=False)
    assert seen == {"loss": {inside}, "sampling": {1}, "outer step": {1}}
