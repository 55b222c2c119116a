"""Engines, models and losses that several threads or processes use at once."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import (
    CLEAR,
    assert_answer,
    episodes,
    linear,
    make_engine,
    method_of,
    mlp,
    refused,
    tasks_of,
    with_threads,
)

THREADS = 4


def small_convolution() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    return nn.Sequential(nn.Unflatten(1, (1, 4, 4)), *layers).double()


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a linear net": (linear, 3),
    "a net of layers": (mlp, 3),
    "a convolutional net": (small_convolution, 16),
}


def at_once(work: Callable[[int], object], count: int = THREADS) -> list[Any]:
    """The results of ``work(0..count - 1)`` in threads that begin together; errors are raised."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def right_or_refused(engine: Any, net: nn.Module, method: il.Method, episode: il.Episode, **plain: Any) -> None:
    right = oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy, **plain).grads
    try:
        grads, _ = engine.meta_gradient(method, episode)
    except CLEAR as error:
        if len(str(error)) <= 20:
            raise
        return
    assert_answer(grads, right, threading.get_ident())


@pytest.mark.parametrize(("execution", "threads"), [("auto", 1), ("serial", 1), (1, 2)])
@pytest.mark.parametrize("kind", NETS)
def test_one_engine_in_four_threads(kind: str, execution: Any, threads: int) -> None:
    make, features = NETS[kind]
    net, method = make(), method_of("maml")
    with with_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = make_engine(net, execution=execution)

        def work(number: int) -> None:
            for call in range(8):
                right_or_refused(engine, net, method, episodes(10 * number + call, features=features))

        at_once(work)
        work(9)


def test_one_engine_in_four_threads_with_other_methods() -> None:
    net, methods = mlp(), [method_of("maml", 0.1 * (1 + n), 1 + n % 2) for n in range(THREADS)]
    engine = make_engine(net)

    def work(number: int) -> None:
        for call in range(8):
            plain = {"lr": 0.1 * (1 + number), "steps": 1 + number % 2}
            right_or_refused(engine, net, methods[number], episodes(10 * number + call), **plain)

    at_once(work)


def test_an_engine_for_each_of_four_threads_and_one_net() -> None:
    net, method = mlp(), method_of("maml")

    def work(number: int) -> None:
        engine = make_engine(net)
        for call in range(8):
            right_or_refused(engine, net, method, episodes(10 * number + call))

    at_once(work)


def test_the_plain_function_in_four_threads() -> None:
    net, method = mlp(), method_of("maml")

    def work(number: int) -> None:
        for call in range(6):
            e = episodes(10 * number + call)
            grads, _ = il.meta_gradient(net, method, e)
            assert_answer(grads, oracle.meta_gradient(net, tasks_of(e), F.cross_entropy).grads, number)
            params = il.adapt(net, method, e.support_x[0], e.support_y[0])
            assert_answer(params, oracle.adapted(net, e.support_x[0], e.support_y[0], F.cross_entropy), number)

    at_once(work)


@pytest.mark.parametrize("kind", NETS)
def test_the_net_itself_is_called_in_other_threads_meanwhile(kind: str) -> None:
    """A net is never changed, not even for a moment: what it gives in one thread is the same while an engine runs."""
    make, features = NETS[kind]
    net, method = make().eval(), method_of("maml")
    engine, x = make_engine(net), torch.randn(5, features, dtype=torch.float64)
    expected, stop = net(x).detach(), threading.Event()
    wrong: list[Tensor] = []

    def call_the_net() -> None:
        while not stop.is_set():
            found = net(x).detach()
            if not torch.equal(found, expected):
                wrong.append(found)

    other = threading.Thread(target=call_the_net)
    other.start()
    try:
        for call in range(12):
            engine.meta_gradient(method, episodes(call, features=features))
    finally:
        stop.set()
        other.join()
    assert not wrong


def test_an_engine_goes_from_thread_to_thread() -> None:
    net, method = mlp(), method_of("maml")
    engine = make_engine(net)
    for call in range(12):
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda call=call, found=found: found.append(engine.meta_gradient(method, episodes(call)))
        )
        thread.start()
        thread.join()
        assert_answer(found[0][0], oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy).grads, call)


def test_engines_in_coroutines() -> None:
    net, method = linear(), method_of("maml")
    engine = make_engine(net)

    async def one(number: int) -> None:
        for call in range(4):
            await asyncio.sleep(0)
            e = episodes(10 * number + call)
            grads, _ = await asyncio.to_thread(engine.meta_gradient, method, e)
            assert_answer(grads, oracle.meta_gradient(net, tasks_of(e), F.cross_entropy).grads, number)

    async def main() -> None:
        found = await asyncio.gather(*map(one, range(3)), return_exceptions=True)
        assert all(f is None or isinstance(f, CLEAR) for f in found), found

    asyncio.run(main())


def test_parameters_are_written_by_another_thread_between_calls() -> None:
    net, method = mlp(), method_of("maml")
    engine = make_engine(net, execution=1)

    def write() -> None:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1)

    for call in range(12):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        grads, _ = engine.meta_gradient(method, episodes(call))
        assert_answer(grads, oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy).grads, call)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copied_engine_is_right_or_refused(how: str) -> None:
    net, method = mlp(), method_of("maml")
    engine = make_engine(net)
    for call in range(5):
        engine.meta_gradient(method, episodes(call))
    found: list[Any] = []

    def run() -> None:
        other = copy.deepcopy(engine) if how == "deepcopy" else pickle.loads(pickle.dumps(engine))
        with torch.no_grad():
            net[0].weight.mul_(2)  # the copy's own net is as it was
        for call in range(6):
            found.append(other.meta_gradient(method, episodes(call))[0])

    before, said = copy.deepcopy(net), ""
    try:
        run()
    except (*CLEAR, pickle.PicklingError, AttributeError) as error:
        said = str(error)
    assert found or len(said) > 20
    for call, grads in enumerate(found):
        rights = [oracle.meta_gradient(n, tasks_of(episodes(call)), F.cross_entropy).grads for n in (before, net)]
        assert any(all(torch.allclose(grads[k], right[k], rtol=1e-7) for k in right) for right in rights)
    for call in range(4):
        grads, _ = engine.meta_gradient(method, episodes(call))
        assert_answer(grads, oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy).grads, call)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("warm", [False, True], ids=["new", "in use"])
@pytest.mark.parametrize(("execution", "threads"), [("auto", 1), (1, 2)])
def test_an_engine_in_a_forked_process(execution: Any, threads: int, warm: bool) -> None:
    """The child of a fork has none of the parent's threads: its results are right, or refused, and come in the end."""
    net, method = linear(), method_of("maml")
    with with_threads(threads):
        engine = make_engine(net, execution=execution)
        if warm:
            for call in range(6):
                engine.meta_gradient(method, episodes(call))
        torch.set_num_threads(1)  # a pool of OpenMP's does not live through a fork, whoever made it
        child = os.fork()
        if child == 0:  # pragma: no cover
            code = 1
            try:
                for call in range(4):
                    right_or_refused(engine, net, method, episodes(call))
                code = 0
            finally:
                os._exit(code)
        assert waited(child) == 0
        right_or_refused(engine, net, method, episodes(7))


def waited(child: int, seconds: float = 30.0) -> int | None:
    """The exit code of a process; None, and its end, if it does not come by itself."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_engines_that_are_dropped_leave_no_threads_behind() -> None:
    net, method = linear(), method_of("maml")
    with with_threads(2):
        before = threading.active_count()
        for number in range(6):
            engine = make_engine(net, execution=1)
            for call in range(3):
                engine.meta_gradient(method, episodes(call + number))
            del engine
        gc.collect()
        until = time.monotonic() + 10
        while threading.active_count() > before + 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert threading.active_count() <= before + 2


def test_threads_of_the_callers_keep_their_number() -> None:
    net, method = linear(), method_of("maml")
    with with_threads(2):
        engine = make_engine(net, execution=1)
        for call in range(4):
            engine.meta_gradient(method, episodes(call))
            assert torch.get_num_threads() == 2
            assert at_once(lambda number: torch.get_num_threads(), 2) == [2, 2]


def test_a_module_that_changes_while_a_call_runs_is_not_half_seen() -> None:
    """The forward pass of one task sets an attribute of the user's module, which the other tasks must not see."""

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = linear(), 1.0

        def forward(self, x: Tensor) -> Tensor:
            outputs = self.layer(x) * self.scale
            user[0].scale = 2.0
            return outputs

    user = [Sets()]
    net, method = user[0], method_of("maml")
    with with_threads(2):
        engine = make_engine(net, execution=1)
        for call in range(6):
            net.scale = 1.0
            e, quiet = episodes(call, tasks=4), copy.deepcopy(net)
            user[0] = nn.Module()
            right = oracle.meta_gradient(quiet, tasks_of(e), F.cross_entropy).grads
            user[0] = net
            found: list[Any] = []
            if not refused(lambda e=e, found=found: found.append(engine.meta_gradient(method, e))):
                assert_answer(found[0][0], right, call)
