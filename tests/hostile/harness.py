"""Runs an engine through a script of calls, and compares every call with the plain loops of :mod:`hostile.oracle`."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.oracle import Answer, Kind, LossFn

RTOL, ATOL = 1e-7, 1e-10
LR = 0.1
MOMENTS = (4, 9, 20, 40, 150, 1500)
"""The calls before which something changes: when a recording may just have been made, and when it is long in use."""
SHORT, LONG = 21, 41
"""How many calls a case has: one more than the moment at 20, or at 40."""
CLEAR = (ValueError, RuntimeError, TypeError, NotImplementedError)
"""What a refusal may be. Anything else is an accident."""


def make_engine(net: nn.Module, loss_fn: LossFn = F.cross_entropy, **options: Any) -> Any:
    """An engine, by the public name where there is one."""
    public = getattr(il, "Engine", None)
    if public is None:
        from innerloop.engine.engine import Engine as public  # noqa: N813
    return public(net, loss_fn, **options)


def method_of(kind: Kind, lr: float = LR, steps: int = 1) -> il.Method:
    """The library's method for one of the oracle's kinds."""
    if kind == "reptile":
        return il.reptile(lr, steps, None, inner_optimizer="sgd")
    return (il.maml if kind == "maml" else il.fomaml)(lr, steps)


def episodes(
    seed: int, tasks: int = 2, support: int = 4, queries: int = 3, features: int = 3, ways: int = 2
) -> il.Episode:
    """Noise in float64 with random classes, another for each seed."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, support + queries, features, generator=g, dtype=torch.float64)
    y = torch.randint(ways, (tasks, support + queries), generator=g)
    return il.Episode(x[:, :support], y[:, :support], x[:, support:], y[:, support:])


def targets_of_floats(seed: int, outputs: int = 2, **sizes: int) -> il.Episode:
    """Noise in float64 with real targets."""
    episode = episodes(seed, **sizes)
    g = torch.Generator().manual_seed(1000 + seed)

    def targets(x: Tensor) -> Tensor:
        return torch.randn(*x.shape[:2], outputs, generator=g, dtype=torch.float64)

    x, q = episode.support_x, episode.query_x
    return il.Episode(x, targets(x), q, targets(q))


def linear(features: int = 3, outputs: int = 2) -> nn.Module:
    """The smallest network."""
    torch.manual_seed(0)
    return nn.Linear(features, outputs).double()


def mlp(features: int = 3, hidden: int = 4, outputs: int = 2) -> nn.Sequential:
    """A network with a hidden layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


def tasks_of(episode: il.Episode) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The tasks of an episode one by one."""
    parts = (episode.support_x, episode.support_y, episode.query_x, episode.query_y)
    return [tuple(part[i] for part in parts) for i in range(len(episode.support_x))]  # type: ignore[misc]


Make = Callable[..., "Script"]
Ways = tuple[tuple[str | int, int], ...]


@dataclass
class Script:
    """Calls of one engine, and what changes between them.

    Args:
        net: the module.
        loss_fn: the loss.
        kind: the method.
        steps: the number of inner steps.
        episode: from the number of a call to its episode.
        change: called with 0, 1, 2, ... before the calls ``at``; it may return nothing.
        at: the numbers of those calls, counted from 1.
        calls: how many calls there are; None for as many as the case is played with.
        before: called before each of the two ways of a call, with the call's number; it seeds generators, say.
        around: what each of the two ways is done in.
        refusal: whether the engine may refuse with a clear error, in place of a result.
        unused: as the engine's.
        copied: whether the oracle calls a copy of the module.
        expected: the right answers, where the oracle's loop is not the one that is meant; from the call's number.
        method: from the call's number to its method, in place of one of the oracle's kinds.
        plain: from the call's number to more arguments of the oracle, for another method.
        rtol: the relative tolerance.
        options: more options of the engine.
    """

    net: nn.Module
    loss_fn: LossFn = F.cross_entropy
    kind: Kind = "maml"
    steps: int = 1
    episode: Callable[[int], il.Episode] = episodes
    change: Callable[[int], object] | None = None
    at: tuple[int, ...] = MOMENTS
    calls: int | None = None
    before: Callable[[int], object] | None = None
    around: Callable[[int], AbstractContextManager[object]] = lambda call: nullcontext()
    refusal: bool = False
    unused: str = "error"
    copied: bool = True
    expected: Callable[[int, il.Episode], Answer] | None = None
    method: Callable[[int], il.Method] | None = None
    plain: Callable[[int], dict[str, Any]] = lambda call: {}
    rtol: float = RTOL
    options: Mapping[str, Any] | None = None


def play(
    script: Script, execution: str | int = "auto", threads: int = 1, calls: int = SHORT, *, engine: Any = None
) -> Any:
    """Run the script; fail at the first call whose result is not that of the plain loops. Returns the engine."""
    with with_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if engine is None:
            options = {"execution": execution, "unused": script.unused, **(script.options or {})}
            engine, error = _attempt(lambda: make_engine(script.net, script.loss_fn, **options), nullcontext())
            if error is not None:
                assert script.refusal, f"the engine was refused: {error}"
                return None
        method = method_of(script.kind, LR, script.steps)
        for call in range(1, (script.calls or calls) + 1):
            if script.change is not None and call in script.at:
                script.change(script.at.index(call))
            _compare(script, engine, script.method(call) if script.method else method, call)
    return engine


def _compare(script: Script, engine: Any, method: il.Method, call: int) -> None:
    episode = script.episode(call)
    before = [t.clone() for t in _tensors(episode)]
    if script.before:
        script.before(call)
    with script.around(call):
        right = (script.expected or _plain(script))(call, episode)
    if script.before:
        script.before(call)
    found, error = _attempt(lambda: engine.meta_gradient(method, episode), script.around(call))
    if error is None:
        grads, info = found
        assert_answer(grads, right.grads, call, script.rtol)
        if right.losses:
            losses = {str(i): loss for i, loss in enumerate(right.losses)}
            assert_answer(dict(zip(losses, info.loss, strict=True)), losses, call, script.rtol)
    else:
        assert script.refusal, f"call {call} was refused: {error}"
    after = _tensors(episode)
    assert all(map(same_bits, before, after)), f"call {call} altered the episode"


def _plain(script: Script) -> Callable[[int, il.Episode], Answer]:
    def answer(call: int, episode: il.Episode) -> Answer:
        options = {"kind": script.kind, "lr": LR, "steps": script.steps, "copied": script.copied}
        return oracle.meta_gradient(script.net, tasks_of(episode), script.loss_fn, **options | script.plain(call))

    return answer


def assert_answer(actual: Mapping[str, Tensor], right: Mapping[str, Tensor], call: object, rtol: float = RTOL) -> None:
    """The same names, and the same numbers to rounding; a message that names the call and how far off it is."""
    assert actual.keys() == right.keys(), f"call {call} has gradients of {list(actual)}, and not of {list(right)}"
    for name, expected in right.items():
        found = actual[name].detach()
        assert found.shape == expected.shape, f"call {call}: {name} is {list(found.shape)}"
        size = expected.abs().nan_to_num(0, 0).max().item() if expected.numel() else 0.0
        close = torch.isclose(found.to(expected.dtype), expected, rtol=rtol, atol=ATOL + rtol * size, equal_nan=True)
        assert bool(close.all()), (
            f"call {call}: {name} is off by {(found - expected).abs().max().item():.3g} where the plain loop has "
            f"values up to {size:.3g}"
        )


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, all NaNs being alike."""
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124


def _tensors(episode: il.Episode) -> list[Tensor]:
    return [episode.support_x, episode.support_y, episode.query_x, episode.query_y]


@contextlib.contextmanager
def with_threads(count: int) -> Iterator[None]:
    """Torch on so many threads, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def refused(call: Callable[[], object]) -> bool:
    """Whether a call raises a clear error; an accident is passed on."""
    return _attempt(call, nullcontext())[1] is not None


def _attempt(call: Callable[[], Any], around: AbstractContextManager[object]) -> tuple[Any, Exception | None]:
    """What a call gives, or the error by which it is refused; an error without a reason is passed on."""
    try:
        with around:
            return call(), None
    except CLEAR as error:
        if len(str(error)) <= 20:
            raise AssertionError(f"refused without a reason: {error!r}") from error
        return None, error


WAYS: tuple[tuple[str | int, int], ...] = ((1, 2), ("batched", 1), ("auto", 2), (2, 1), ("serial", 2))
"""Further ways to run, as (execution, threads), which cases take in turns."""


class Cases:
    """The cases of a file, which make scripts; the name of a case reads as a sentence.

    Every case is run on one thread, serially or as ``auto`` chooses in turns, and for longer in one of :data:`WAYS`.
    """

    def __init__(self) -> None:
        self._made: list[Any] = []
        self._turn = itertools.cycle(WAYS)
        self._first: itertools.cycle[str] = itertools.cycle(("serial", "auto"))

    def __call__(self, make: Make, *, name: str | None = None, ways: Ways = (), calls: int = LONG) -> Make:
        """Enter a case; also a decorator. ``ways`` are in place of the usual ones; ``calls`` those of the last."""
        sentence = (name or make.__name__).replace("_", " ").strip()
        ways = ways or ((next(self._first), 1), self.next_way())
        for number, (execution, threads) in enumerate(ways):
            many = calls if number == len(ways) - 1 else SHORT
            label = f"{sentence} - {execution} on {threads}"
            self._made.append(pytest.param(Case(make, execution, threads, many), id=label))
        return make

    def only(self, *ways: tuple[str | int, int], calls: int = LONG) -> Callable[[Make], Make]:
        """A decorator that enters a case for these ways only."""
        return lambda make: self(make, ways=ways, calls=calls)

    def next_way(self) -> tuple[str | int, int]:
        """The next of :data:`WAYS`."""
        return next(self._turn)

    @property
    def all(self) -> pytest.MarkDecorator:
        """The mark that runs a test for each of them, as ``case``."""
        return pytest.mark.parametrize("case", self._made)


@dataclass(frozen=True)
class Case:
    """One case in one way to run."""

    make: Make
    execution: str | int
    threads: int
    calls: int

    def play(self, patch: pytest.MonkeyPatch) -> Any:
        """Play it; a case that takes an argument gets what puts patched things back afterwards."""
        script = self.make(patch) if "patch" in inspect.signature(self.make).parameters else self.make()
        return play(script, self.execution, self.threads, self.calls)
