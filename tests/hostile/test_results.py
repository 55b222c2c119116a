"""Results are the caller's own, and what was collected is not taken for what lies at its address now."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hostile import oracle
from hostile.harness import (
    Script,
    assert_answer,
    episodes,
    linear,
    make_engine,
    method_of,
    mlp,
    play,
    same_bits,
    tasks_of,
    with_threads,
)


@pytest.mark.parametrize(("execution", "threads"), [("auto", 1), ("serial", 1), (1, 2)])
def test_results_are_the_callers_own(execution, threads: int) -> None:
    """What a call gave does not change with later calls, and may be written to."""
    net, method, kept = mlp(), method_of("maml", steps=2), []
    with with_threads(threads):
        engine = make_engine(net, execution=execution)
        for call in range(25):
            grads, info = engine.meta_gradient(method, episodes(call))
            right = oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy, steps=2)
            assert_answer(grads, right.grads, call)
            kept.append((grads, info, {n: g.clone() for n, g in grads.items()}, info.support_losses.clone()))
            for old, seen, copies, losses in kept[:-1:4]:
                assert all(same_bits(old[name], copies[name]) for name in copies)
                assert same_bits(seen.support_losses, losses)
            kept = [k for k in kept if k[0] is not grads] if call % 3 else kept
            if call % 3:
                for grad in grads.values():
                    grad.fill_(7.0)
                info.loss.fill_(7.0)
                info.support_losses.fill_(7.0)


def test_gradients_share_no_memory_with_each_other_or_with_the_module() -> None:
    net, method = mlp(), method_of("maml")
    engine = make_engine(net)
    for call in range(8):
        grads, _ = engine.meta_gradient(method, episodes(call))
        memory = [t.untyped_storage().data_ptr() for t in (*grads.values(), *net.parameters())]
        assert len(set(memory)) == len(memory)


def test_meta_parameters_that_are_given_are_used_and_left_alone() -> None:
    net, method, values = mlp(), method_of("maml"), mlp()
    engine = make_engine(net)
    for call in range(24):
        with torch.no_grad():
            for p in values.parameters():
                p.mul_(1.01)
        given = {name: p.detach() for name, p in values.named_parameters()}
        before = {name: p.clone() for name, p in given.items()}
        grads, _ = engine.meta_gradient(method, episodes(call), given)
        assert all(same_bits(given[name], before[name]) for name in given)
        assert_answer(grads, oracle.meta_gradient(values, tasks_of(episodes(call)), F.cross_entropy).grads, call)


# -- identities that come again --------------------------------------------------------------------------------------


def test_losses_that_take_each_others_address() -> None:
    engine, net, method = None, linear(), method_of("maml")
    engine = make_engine(net)
    for number in range(60):
        scale = 1.0 + number
        engine.loss_fn = lambda outputs, y, scale=scale: F.cross_entropy(outputs * scale, y)
        for call in range(1 + number % 5):
            grads, _ = engine.meta_gradient(method, episodes(call))
            right = oracle.meta_gradient(net, tasks_of(episodes(call)), engine.loss_fn)
            assert_answer(grads, right.grads, (number, call))
        engine.loss_fn = F.cross_entropy
        if number % 7 == 0:
            gc.collect()


def test_methods_that_take_each_others_address() -> None:
    net = linear()
    engine = make_engine(net)
    for number in range(60):
        lr = 0.01 * (1 + number)
        method = method_of("maml", lr)
        for call in range(5):
            grads, _ = engine.meta_gradient(method, episodes(call))
            assert_answer(grads, oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy, lr=lr).grads, lr)
        del method


def test_nets_and_engines_that_take_each_others_address() -> None:
    for number in range(30):
        torch.manual_seed(number)
        net = nn.Linear(3, 2).double()
        engine = make_engine(net)
        for call in range(5):
            grads, _ = engine.meta_gradient(method_of("maml"), episodes(call))
            assert_answer(grads, oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy).grads, number)
        del net, engine


def test_constants_that_take_each_others_address() -> None:
    """A loss with a tensor that is replaced at each call by one that may lie where the last one lay."""
    net, held = linear(), [torch.ones(2, dtype=torch.float64)]

    def before(call: int) -> None:
        held.clear()
        held.append(torch.full((2,), 1.0 + call // 2, dtype=torch.float64))

    play(Script(net, lambda outputs, y: F.cross_entropy(outputs * held[0], y), before=before, calls=40))


def test_methods_of_the_same_names_and_other_numbers_are_told_apart() -> None:
    net, methods = linear(), [(lr, steps, method_of("maml", lr, steps)) for lr in (0.1, 0.2) for steps in (1, 2)]
    engine = make_engine(net)
    for call in range(10):
        for lr, steps, method in methods:
            grads, _ = engine.meta_gradient(method, episodes(call))
            right = oracle.meta_gradient(net, tasks_of(episodes(call)), F.cross_entropy, lr=lr, steps=steps)
            assert_answer(grads, right.grads, (call, lr, steps))
