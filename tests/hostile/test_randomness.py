"""Random numbers, clocks and counters within a forward pass: drawn at every call, and by none but the call itself."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import Cases, Script, episodes, linear, make_engine, method_of, play, tasks_of, with_threads

STATES = itertools.count(1)
NUMPY, RANDOM = np.random.default_rng(0), random.Random(0)
GENERATOR = torch.Generator().manual_seed(0)


def flips() -> Iterator[int]:
    while True:
        yield from (0, 0, 1)


FLIPS, CYCLE = flips(), itertools.cycle((0, 1, 0))


def seeded_counter(state: list[int] = [0]) -> int:  # noqa: B006
    state[0] += 1
    return int(state[0] % 3 == 0)


COINS: dict[str, Callable[[], Any]] = {
    "random": lambda: random.random() < 0.3,
    "an object of random": lambda: RANDOM.random() < 0.3,
    "a choice": lambda: random.choice([0, 0, 1]),
    "shuffling": lambda: random.sample(range(3), 3)[0] == 0,
    "NumPy": lambda: np.random.rand() < 0.3,
    "a generator of NumPy": lambda: NUMPY.random() < 0.3,
    "secrets": lambda: secrets.randbelow(3) == 0,
    "urandom": lambda: os.urandom(1)[0] < 80,
    "uuid": lambda: uuid.uuid4().int % 3 == 0,
    "the clock": lambda: time.time_ns() // 1000 % 3 == 0,
    "the performance counter": lambda: time.perf_counter_ns() // 1000 % 3 == 0,
    "a counter": lambda: next(STATES) % 3 == 0,
    "a generator": lambda: next(FLIPS),
    "a cycle": lambda: next(CYCLE),
    "a default argument that counts": seeded_counter,
    "torch": lambda: torch.rand(()).item() < 0.3,
    "torch as a tensor": lambda: (torch.rand(()) < 0.3).double(),
    "bernoulli": lambda: torch.bernoulli(torch.tensor(0.3)).double(),
    "randint": lambda: (torch.randint(3, ()) == 0).double(),
    "randperm": lambda: int(torch.randperm(3)[0] == 0),
    "multinomial": lambda: int(torch.multinomial(torch.tensor([0.7, 0.3]), 1)),
    "dropout": lambda: (F.dropout(torch.ones(()), 0.3) == 0).double(),
    "a generator of torch": lambda: int(torch.rand((), generator=GENERATOR) < 0.3),
    "an exponential in place": lambda: int(torch.empty(()).exponential_().item() < 0.3),
}
"""Each gives 0 or 1, and not always the same."""


class Tosses(nn.Module):
    """Doubles its outputs now and then."""

    def __init__(self, coin: Callable[[], Any]) -> None:
        super().__init__()
        self.layer, self.coin = linear(), coin

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1.0 + self.coin())


def in_the_loss(coin: Callable[[], Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, y: F.cross_entropy(outputs * (1.0 + coin()), y)


@pytest.mark.parametrize(("execution", "threads", "where"), [("serial", 1, "module"), ("auto", 1, "loss")])
@pytest.mark.parametrize("coin", COINS.values(), ids=COINS.keys())
def test_a_coin_is_tossed_at_every_call(coin: Callable[[], Any], execution: Any, threads: int, where: str) -> None:
    """Every result is that of some sequence of tosses, and no single one comes again and again."""
    episode = episodes(0)
    every: list[dict[str, Tensor]] = []
    for tosses in itertools.product((0, 1), repeat=4):
        given = iter(tosses)
        net, loss = (Tosses(lambda given=given: next(given)), F.cross_entropy)
        every.append(oracle.meta_gradient(net, tasks_of(episode), loss).grads)
    net = Tosses(coin) if where == "module" else Tosses(lambda: 0)
    loss = F.cross_entropy if where == "module" else in_the_loss(coin)
    with with_threads(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine, method = make_engine(net, loss, execution=execution), method_of("maml")
        found = [engine.meta_gradient(method, episode)[0] for _ in range(30)]
    which = [[same(one, right) for right in every] for one in found]
    assert all(map(any, which)), f"call {1 + [any(w) for w in which].index(False)} is of no sequence of tosses"
    assert len({tuple(w) for w in which[6:]}) > 1, "the coin is not tossed any more"


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-9, atol=1e-12) for name in other)


cases = Cases()
SEEDED: dict[str, tuple[Callable[[int], object], Callable[[], Any]]] = {
    "random": (random.seed, COINS["random"]),
    "NumPy": (np.random.seed, COINS["NumPy"]),
    "torch": (torch.manual_seed, lambda: torch.rand((), dtype=torch.float64)),
    "dropout": (torch.manual_seed, lambda: F.dropout(torch.ones(2, dtype=torch.float64), 0.3)),
    "a generator of torch": (GENERATOR.manual_seed, COINS["a generator of torch"]),
    "an object of random": (RANDOM.seed, COINS["an object of random"]),
}
for sentence, (seed, coin) in SEEDED.items():
    cases(
        lambda seed=seed, coin=coin: Script(Tosses(coin), before=seed),
        name=f"the module draws from {sentence}, seeded before each call",
        ways=(("serial", 1),),
        calls=22,
    )
    cases(
        lambda seed=seed, coin=coin: Script(linear(), in_the_loss(coin), before=seed),
        name=f"the loss draws from {sentence}, seeded before each call",
        ways=(("serial", 1),),
        calls=22,
    )
    cases(
        lambda seed=seed, coin=coin: Script(linear(), in_the_loss(coin), before=lambda call: seed(call // 9)),
        name=f"the loss draws from {sentence}, seeded alike for nine calls",
        ways=(("serial", 1),),
        calls=22,
    )


@cases.only(("serial", 1), ("auto", 1), (1, 2), ("batched", 1))
def the_same_noise_by_a_seed_within_the_forward_pass() -> Script:
    def noise() -> Tensor:
        torch.manual_seed(3)
        return torch.rand(2, dtype=torch.float64)

    return Script(Tosses(noise), refusal=True, before=lambda call: torch.manual_seed(100 + call))


@cases.only(("auto", 1), (1, 2), ("batched", 1))
def the_same_noise_by_the_seed_that_holds_already() -> Script:
    def noise() -> Tensor:
        torch.manual_seed(3)
        return torch.rand(2, dtype=torch.float64)

    torch.manual_seed(3)
    return Script(Tosses(noise), refusal=True, calls=12)


@cases.only(("auto", 1), ("batched", 1))
def the_same_noise_by_a_forked_generator_as_a_tensor() -> Script:
    def noise() -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return torch.rand(2, dtype=torch.float64)

    return Script(Tosses(noise), refusal=True, calls=12)


@cases.only(("serial", 1), ("auto", 1), (1, 2))
def the_same_noise_by_a_generator_made_within_the_forward_pass() -> Script:
    def noise() -> Tensor:
        return torch.rand(2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    return Script(Tosses(noise), refusal=True)


@cases.only(("serial", 1), ("auto", 1))
def the_same_noise_by_a_forked_generator_within_the_forward_pass() -> Script:
    def noise() -> float:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return torch.rand(()).item()

    return Script(Tosses(noise))


@cases.only(("serial", 1), ("auto", 1))
def the_state_of_the_generator_is_read_but_not_changed() -> Script:
    return Script(
        linear(),
        in_the_loss(lambda: int(torch.get_rng_state().sum()) % 7),
        before=lambda call: torch.manual_seed(call // 5),
    )


@cases.only(("serial", 1), ("auto", 1))
def the_seed_is_read() -> Script:
    return Script(
        linear(), in_the_loss(lambda: torch.initial_seed() % 7), before=lambda call: torch.manual_seed(call // 5)
    )


@cases.only(("serial", 1))
def dropout_that_begins_after_twenty_calls() -> Script:
    net = nn.Sequential(nn.Dropout(0.0), linear())

    def change(number: int) -> None:
        net[0].p = 0.2 * (number + 1)

    return Script(net, change=change, before=torch.manual_seed)


@cases.only(("serial", 1))
def dropout_in_a_module_that_goes_to_eval_and_back() -> Script:
    net = nn.Sequential(nn.Dropout(0.5), linear())
    return Script(net, change=lambda number: net.train(number % 2 == 1), before=torch.manual_seed)


@cases.all
def test_seeded_draws_are_those_of_the_plain_loop(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("module", [random, np.random], ids=["random", "NumPy"])
def test_a_generator_is_left_as_a_plain_loop_leaves_it(module: Any) -> None:
    """Nothing draws beside the forward passes that the result is of: a recording, a trial or a comparison."""
    coin = (lambda: random.random() < 0.3) if module is random else (lambda: np.random.rand() < 0.3)
    net, episode, method = Tosses(coin), episodes(0), method_of("maml")
    engine = make_engine(net, execution="serial")
    for call in range(12):
        module.seed(call)
        oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy)
        expected = float(module.random())
        module.seed(call)
        engine.meta_gradient(method, episode)
        assert float(module.random()) == expected, f"call {call}"


@pytest.mark.parametrize("execution", ["serial", "auto"])
def test_the_library_leaves_torchs_generator_alone_where_nothing_is_drawn(execution: str) -> None:
    net, method = linear(), method_of("maml")
    engine = make_engine(net, execution=execution)
    for call in range(12):
        state = torch.get_rng_state()
        engine.meta_gradient(method, episodes(call))
        assert torch.equal(torch.get_rng_state(), state), f"call {call}"


@pytest.mark.parametrize("execution", ["serial", "auto"])
def test_inner_mini_batches_follow_the_generator_that_is_given(execution: str) -> None:
    """Reptile by SGD on mini-batches, whose indices the plain loop draws in the documented way: sorted noise."""
    net, episode = linear(), episodes(0)
    method, engine = il.reptile(0.1, 3, 2, inner_optimizer="sgd"), make_engine(net, execution=execution)
    for call in range(24):
        seed = call // 5
        noise = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(seed))
        batches = noise.argsort(-1).flatten(1)[:, :6].reshape(2, 3, 2)
        right = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        for task, (x, y, _, _) in enumerate(tasks_of(episode)):
            fast = {name: p.detach().clone() for name, p in net.named_parameters()}
            for rows in batches[task]:
                at = {name: p.detach().requires_grad_() for name, p in fast.items()}
                inner = oracle.gradients(F.cross_entropy(oracle.call(net, at, x[rows]), y[rows]), at)
                fast = {name: p.detach() - 0.1 * inner[name] for name, p in at.items()}
            right = {name: total + (net.get_parameter(name).detach() - fast[name]) / 2 for name, total in right.items()}
        found, _ = engine.meta_gradient(method, episode, generator=torch.Generator().manual_seed(seed))
        assert same(found, right), f"call {call}"


def test_a_script_with_random_draws_would_fail_with_other_seeds() -> None:
    script = Script(Tosses(COINS["random"]), before=lambda call: random.seed(next(STATES)), calls=20)
    with pytest.raises(AssertionError, match="off by"):
        play(script, "serial")
