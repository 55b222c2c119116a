"""What surrounds a call: autocast, modes, flags and thread-local state of the caller, in the worker threads too."""

from __future__ import annotations

import contextlib
import contextvars
import decimal
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import innerloop as il
from hostile import oracle
from hostile.harness import (
    Cases,
    Script,
    assert_answer,
    episodes,
    linear,
    make_engine,
    method_of,
    mlp,
    play,
    refused,
    tasks_of,
)

cases = Cases()
EVERYWHERE = (("serial", 1), ("auto", 1), (1, 2), ("serial", 2))


class Sees(nn.Module):
    """Multiplies its outputs by a number that it finds around it."""

    def __init__(self, see: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.layer, self.see = linear(3, 3), linear(), see

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.first(x).double()).double() * self.see(x)


def now_and_then(context: Callable[[], AbstractContextManager[Any]], every: int = 3) -> Callable[[int], Any]:
    return lambda call: context() if call % every == 0 else nullcontext()


def always(context: Callable[[], AbstractContextManager[Any]]) -> Callable[[int], Any]:
    return lambda call: context()


@contextlib.contextmanager
def set_for_a_while(put: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(before)


def lower_precision(x: Tensor) -> float:
    """Whether a product is in another type here, as a number."""
    product = torch.mm(torch.ones(1, 1), torch.ones(1, 1))
    return {torch.float32: 1.0, torch.bfloat16: 2.0, torch.float16: 3.0}[product.dtype]


SCALE = contextvars.ContextVar("hostile_scale", default=1.0)


class Local(threading.local):
    scale = 1.0


LOCAL = Local()


class DoublesRelu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func in (F.relu, torch.relu) else result


class DoublesTanh(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.ops.aten.sin.default else result


CONTEXTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[], AbstractContextManager[Any]]]] = {
    "autocast to bfloat16": (lower_precision, lambda: torch.autocast("cpu", torch.bfloat16)),
    "autocast to float16": (lower_precision, lambda: torch.autocast("cpu", torch.float16)),
    "a context variable": (
        lambda x: SCALE.get(),
        lambda: set_for_a_while(SCALE.set, 2.0, 1.0),
    ),
    "a thread's own attribute": (
        lambda x: LOCAL.scale,
        lambda: set_for_a_while(lambda value: setattr(LOCAL, "scale", value), 2.0, 1.0),
    ),
    "the default type": (
        lambda x: 2.0 if torch.ones(()).dtype == torch.float64 else 1.0,
        lambda: set_for_a_while(torch.set_default_dtype, torch.float64, torch.float32),
    ),
    "deterministic algorithms": (
        lambda x: 1.0 + torch.are_deterministic_algorithms_enabled(),
        lambda: set_for_a_while(torch.use_deterministic_algorithms, True, False),
    ),
    "the precision of products": (
        lambda x: 1.0 + (torch.get_float32_matmul_precision() == "medium"),
        lambda: set_for_a_while(torch.set_float32_matmul_precision, "medium", "highest"),
    ),
    "anomaly detection": (
        lambda x: 1.0 + torch.is_anomaly_enabled(),
        lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    ),
    "NumPy's handling of errors": (
        lambda x: 1.0 + (np.geterr()["over"] == "ignore"),
        lambda: np.errstate(over="ignore"),
    ),
    "the context of decimals": (
        lambda x: decimal.getcontext().prec / 28,
        lambda: decimal.localcontext(decimal.Context(prec=56)),
    ),
    "a mode of torch functions": (lambda x: F.relu(torch.ones(1).double()), DoublesRelu),
    "a mode of dispatch": (lambda x: torch.sin(torch.ones(1).double()), DoublesTanh),
    "the default device": (
        lambda x: 1.0 + (torch.get_default_device().type == "meta"),
        lambda: torch.device("cpu"),
    ),
    "the printing of tensors": (
        lambda x: float(len(str(torch.tensor(1.23456789)))),
        lambda: set_for_a_while(lambda p: torch.set_printoptions(precision=p), 2, 4),
    ),
}
for sentence, (see, context) in CONTEXTS.items():
    loose = 2e-2 if "autocast" in sentence else 1e-7
    cases(
        lambda see=see, context=context, loose=loose: Script(
            Sees(see), around=now_and_then(context), calls=10, refusal=True, rtol=loose
        ),
        name=f"{sentence} around some calls",
        ways=EVERYWHERE,
    )
    cases(
        lambda see=see, context=context, loose=loose: Script(
            Sees(see), around=always(context), calls=7, refusal=True, rtol=loose
        ),
        name=f"{sentence} around all calls",
        ways=((1, 2), ("auto", 1)),
    )


@cases.only(*EVERYWHERE, calls=14)
def autocast_within_the_forward_pass() -> Script:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, bias=False)  # under vmap, PyTorch adds a bias in float32

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                outputs = self.layer(x.float())
            return outputs.double() * (2.0 if outputs.dtype == torch.bfloat16 else 1.0)

    return Script(Casts(), rtol=3e-2)


@cases.only(*EVERYWHERE, calls=14)
def gradients_are_off_around_the_call() -> Script:
    return Script(mlp(), around=now_and_then(torch.no_grad), refusal=True)


@cases.only(*EVERYWHERE, calls=14)
def gradients_are_off_for_good() -> Script:
    return Script(mlp(), around=always(lambda: torch.set_grad_enabled(False)), refusal=True)


@cases.only(*EVERYWHERE, calls=14)
def a_loss_that_asks_whether_gradients_are_on() -> Script:
    """They are in training, whatever is around the call."""

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y) * (2.0 if torch.is_grad_enabled() else 1.0)

    return Script(linear(), loss, around=now_and_then(torch.no_grad), refusal=True)


@cases.only(("serial", 1), ("auto", 1), (1, 2), calls=10)
def one_operation_detached_by_no_grad_within() -> Script:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            weight = outputs.softmax(-1).max(-1).values
        return (F.cross_entropy(outputs, y, reduction="none") * weight).mean()

    return Script(mlp(), loss, steps=2)


@cases.only(("serial", 1), ("auto", 1), (1, 2), calls=12)
def saved_tensors_are_packed_around_some_calls() -> Script:
    context = now_and_then(lambda: saved_tensors_hooks(lambda t: t.clone(), lambda t: t))
    return Script(mlp(), around=context, refusal=True)


@cases.only(("serial", 1), ("auto", 1), (1, 2), calls=12)
def saved_tensors_are_changed_around_some_calls() -> Script:
    context = now_and_then(lambda: saved_tensors_hooks(lambda t: t * 2 if t.is_floating_point() else t, lambda t: t))
    return Script(mlp(), around=context, refusal=True)


@cases.only(("serial", 1), ("auto", 1), calls=12)
def single_threaded_autograd() -> Script:
    return Script(mlp(), around=now_and_then(lambda: torch.autograd.set_multithreading_enabled(False)))


@cases.only(("serial", 1), ("auto", 1), calls=12)
def a_kernel_library_is_switched_off() -> Script:
    return Script(mlp(), around=now_and_then(lambda: torch.backends.mkldnn.flags(enabled=False)))


@cases.only(("serial", 1), ("auto", 1), (1, 2), calls=20)
def another_number_of_threads_from_call_to_call() -> Script:
    return Script(mlp(), change=lambda number: torch.set_num_threads(1 + number % 2), at=tuple(range(2, 20)))


@cases.only(("serial", 1), ("auto", 1), calls=14)
def garbage_is_collected_within_the_forward_pass() -> Script:
    return Script(Sees(lambda x: 1.0 + 0 * gc.collect(0)))


@cases.only(("serial", 1), ("auto", 1), calls=14)
def inputs_made_under_inference_mode() -> Script:
    def sample(call: int) -> il.Episode:
        with torch.inference_mode():
            return episodes(call)

    net = linear()

    def expected(call: int, e: il.Episode) -> oracle.Answer:
        return oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy)

    return Script(net, episode=sample, refusal=True, expected=expected)


@cases.only(("serial", 1), ("auto", 1), calls=10)
def a_module_made_under_inference_mode() -> Script:
    with torch.inference_mode():
        net = linear()
    return Script(
        net, refusal=True, expected=lambda call, e: oracle.meta_gradient(linear(), tasks_of(e), F.cross_entropy)
    )


@cases.all
def test_a_call_is_made_in_the_callers_surroundings(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("execution", ["auto", "serial"])
def test_inference_mode_around_a_call_is_right_or_refused_by_name(execution: str) -> None:
    net, e = linear(), episodes(0)
    engine, method = make_engine(net, execution=execution), method_of("maml")
    right = oracle.meta_gradient(net, tasks_of(e), F.cross_entropy).grads
    for call in range(8):
        if call % 2:
            with torch.inference_mode():
                try:
                    grads = engine.meta_gradient(method, e)[0]
                except (RuntimeError, ValueError) as error:
                    grads, said = None, str(error)
            if grads is None:
                assert "inference" in said
                continue
        else:
            grads = engine.meta_gradient(method, e)[0]
        assert_answer({name: g.clone() for name, g in grads.items()}, right, call)


@pytest.mark.parametrize("execution", ["batched", "serial", 1])
def test_an_exception_in_the_middle_leaves_the_engine_whole(execution) -> None:
    """Some calls fail within the forward pass, by errors and by an interrupt of the user; the others are right."""
    fail: list[BaseException] = []

    def see(x: Tensor) -> float:
        if fail and x.shape[0] == 3:  # the queries
            raise fail.pop()
        return 1.0

    net, method = Sees(see), method_of("maml")
    torch.set_num_threads(2 if execution == 1 else 1)
    try:
        engine = make_engine(net, execution=execution)
        before, state = torch.get_num_threads(), torch.is_grad_enabled()
        for call in range(1, 30):
            if call % 4 == 0:
                fail[:] = [[KeyboardInterrupt(), ValueError("not this one"), SystemExit(3)][call // 4 % 3]]
                with pytest.raises((KeyboardInterrupt, ValueError, SystemExit)):
                    engine.meta_gradient(method, episodes(call))
                fail.clear()
                assert (torch.get_num_threads(), torch.is_grad_enabled()) == (before, state)
            grads, _ = engine.meta_gradient(method, episodes(call))
            assert_answer(grads, oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy).grads, call)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("where", ["the same engine", "another engine", "the plain function"])
@pytest.mark.parametrize("execution", ["auto", "serial"])
def test_a_loss_that_itself_asks_for_a_meta_gradient(where: str, execution: str) -> None:
    net, other, e, method = linear(), linear(), episodes(0), method_of("maml")
    inner_right = oracle.meta_gradient(net if where == "the same engine" else other, tasks_of(e), F.cross_entropy)
    size = float(inner_right.grads["weight"].sum())
    depth = [0]
    engines: list[Any] = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        plain = F.cross_entropy(outputs, y)
        if depth[0]:
            return plain
        depth[0] += 1
        try:
            if where == "the plain function":
                grads = il.meta_gradient(other, method, e)[0]
            else:
                grads = engines[where == "another engine"].meta_gradient(method, e)[0]
        finally:
            depth[0] -= 1
        return plain * (1.0 + grads["weight"].sum().detach())

    engines[:] = [make_engine(net, loss, execution=execution), make_engine(other, execution=execution)]
    warnings.simplefilter("ignore")  # of tasks that run one by one; pytest takes it back
    for call in range(6):
        right = oracle.meta_gradient(net, tasks_of(episodes(call)), lambda o, y: F.cross_entropy(o, y) * (1.0 + size))
        found: list[Any] = []
        if not refused(lambda call=call, found=found: found.append(engines[0].meta_gradient(method, episodes(call)))):
            assert_answer(found[0][0], right.grads, call)


def test_a_mode_of_the_users_sees_no_more_after_a_call() -> None:
    seen: list[object] = []

    class Watches(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    net, method = linear(), method_of("maml")
    engine = make_engine(net)
    for call in range(6):
        with Watches():
            engine.meta_gradient(method, episodes(call))
        count = len(seen)
        torch.ones(2).add(1)
        assert len(seen) == count


def test_random_calls_in_random_surroundings() -> None:
    play(Script(mlp(), around=now_and_then(DoublesRelu, 2), calls=10))
