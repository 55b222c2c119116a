"""A recording's memory: blocks that are alive at once never overlap, and threads do not share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
import torch
from core_helpers import rng
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from innerloop.engine.kernels import step_runner
from innerloop.engine.replay.arena import LINE, arranged, bytes_of
from innerloop.engine.replay.program import Program
from innerloop.engine.replay.recorder import Layout, Recorder

BLOCKS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 30), st.integers(0, 12)), max_size=40)


@given(BLOCKS)
def test_blocks_that_are_alive_at_once_lie_apart(blocks: list[tuple[int, int, int]]) -> None:
    sizes = {i: size for i, (size, _, _) in enumerate(blocks)}
    born = {i: first for i, (_, first, _) in enumerate(blocks)}
    last = {i: first + more for i, (_, first, more) in enumerate(blocks)}
    at, total = arranged(sizes, born, last)
    assert all(at[i] % LINE == 0 and at[i] + sizes[i] <= total for i in sizes)
    for one, other in combinations(sizes, 2):
        together = born[one] <= last[other] and born[other] <= last[one]
        apart = at[one] + sizes[one] <= at[other] or at[other] + sizes[other] <= at[one]
        assert apart or not together


def test_memory_is_used_again() -> None:
    sizes, born = dict.fromkeys(range(100), 640), {i: i for i in range(100)}
    assert arranged(sizes, born, {i: i + 1 for i in range(100)})[1] == 2 * 640


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3, 4)])
def test_the_bytes_of_a_layout(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.uint8, torch.float64):
        tensor = torch.zeros(shape, dtype=dtype)
        assert bytes_of(Layout.of(tensor)) == tensor.untyped_storage().nbytes()
        assert bytes_of(Layout.of(tensor.mT if tensor.ndim > 1 else tensor)) == tensor.untyped_storage().nbytes()


def computation(dtype: torch.dtype) -> tuple[Callable[[Tensor, Tensor], list[Tensor]], Callable[..., list[Tensor]]]:
    """Sums and multiples of tensors of several layouts, seen by other operations as well; and inputs for it."""

    def fn(x: Tensor, y: Tensor) -> list[Tensor]:
        z = x.t() + y.t()
        w = (z * -0.3 + z) * 2
        v = w.t()[1:] @ y.t() + 1.5  # seen through a view of memory that is used again
        w.add_(z)  # and changed there
        return [v * 3 + v, (w + w * 0.1).sum(0), z + x.t(), w]

    def inputs(seed: int) -> list[Tensor]:
        return [torch.randn(5, 4, generator=rng(2 * seed + i)).to(dtype) for i in range(2)]

    return fn, inputs


def program(fn: Callable[..., list[Tensor]], inputs: list[Tensor]) -> Program:
    with Recorder(inputs) as recorder:
        outputs = fn(*inputs)
    return Program(recorder, recorder.outputs(outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sums_and_multiples_are_those_of_pytorch(dtype: torch.dtype) -> None:
    fn, inputs = computation(dtype)
    again = program(fn, inputs(0))
    if step_runner() is not None and dtype != torch.bfloat16:
        assert any(step.native is not None for step in again.steps)
    first = again(*inputs(1))
    kept = [t.clone() for t in first]
    assert all(map(torch.equal, again(*inputs(2)), fn(*inputs(2))))
    assert all(map(torch.equal, first, kept))  # results are not in the memory that is used again
    assert all(map(torch.equal, kept, fn(*inputs(1))))


def test_threads_have_memory_of_their_own() -> None:
    fn, inputs = computation(torch.float32)
    again = program(fn, inputs(0))
    given_to = [inputs(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda tensors: [again(*tensors) for _ in range(25)][-1], given_to))
    for results, tensors in zip(found, given_to, strict=True):
        assert all(map(torch.equal, results, fn(*tensors)))


def test_recordings_of_several_sizes_take_turns() -> None:
    def fn(x: Tensor) -> list[Tensor]:
        y = x + x
        return [(y * 3 + y).cumsum(0) + 1]

    sizes = [3, 5000, 40, 90_000]
    programs = [program(fn, [torch.ones(size)]) for size in sizes]
    for turn in range(3):
        for size, again in zip(sizes, programs, strict=True):
            x = torch.randn(size, generator=rng(turn))
            assert torch.equal(again(x)[0], fn(x)[0])
