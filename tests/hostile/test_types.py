"""Data and parameters of unusual sizes, types and values."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import (
    Cases,
    Script,
    assert_answer,
    episodes,
    linear,
    mlp,
    refused,
    targets_of_floats,
    tasks_of,
)

cases = Cases()


def with_values(value: float) -> Callable[[int], il.Episode]:
    def sample(call: int) -> il.Episode:
        e = episodes(call)
        support, queries = e.support_x.clone(), e.query_x.clone()
        if call % 3 == 0:
            support[0, 0, 0] = value
        if call % 4 == 0:
            queries[1, 0, 0] = value
        return il.Episode(support, e.support_y, queries, e.query_y)

    return sample


for value in (float("nan"), float("inf"), -float("inf"), 5e-324, 1e-310, 1e150, 1e300):
    cases(
        lambda value=value: Script(linear(), episode=with_values(value), calls=14),
        name=f"data with {value}",
        ways=(("auto", 1), ("serial", 1)),
    )


@cases.only(("auto", 1), ("serial", 1), (1, 2))
def no_inner_steps() -> Script:
    return Script(mlp(), steps=0, calls=10)


@cases.only(("auto", 1), ("serial", 1))
def many_inner_steps() -> Script:
    return Script(linear(), steps=12, calls=8)


@cases.only(("auto", 1), ("serial", 1), ("auto", 2))
def reptile_without_queries() -> Script:
    return Script(linear(), kind="reptile", steps=3, calls=10, episode=lambda call: episodes(call, queries=0))


@cases.only(("auto", 1), ("serial", 1))
def maml_without_queries_is_refused() -> Script:
    def expected(call: int, e: il.Episode) -> oracle.Answer:
        return oracle.Answer({})  # which no result has

    return Script(linear(), refusal=True, expected=expected, episode=lambda call: episodes(call, queries=0), calls=3)


@cases.only(("auto", 1), ("serial", 1))
def inputs_without_features() -> Script:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that it has nothing to fill
        net = nn.Sequential(nn.Linear(0, 2, bias=True), nn.Tanh(), nn.Linear(2, 2)).double()
    return Script(net, episode=lambda call: episodes(call, features=0), unused="ignore", refusal=True, calls=6)


@cases.only(("auto", 1), ("serial", 1))
def a_parameter_of_no_elements_and_one_of_no_axes() -> Script:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.none = linear(), nn.Parameter(torch.zeros(0, 3).double())
            self.scale = nn.Parameter(torch.tensor(1.5).double())

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) * self.scale + (x @ self.none.t()).sum(1, keepdim=True)

    return Script(Odd(), calls=10)


@cases.only(("auto", 1), ("serial", 1))
def words_as_inputs() -> Script:
    net = nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 2)).double()

    def sample(call: int) -> il.Episode:
        e, g = episodes(call), torch.Generator().manual_seed(call)
        return il.Episode(
            torch.randint(7, (2, 4, 2), generator=g), e.support_y, torch.randint(7, (2, 3, 2), generator=g), e.query_y
        )

    return Script(net, episode=sample, calls=14)


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.double())


for dtype in (torch.bool, torch.uint8, torch.int32, torch.float16, torch.float32):
    cases(
        lambda dtype=dtype: Script(
            Casts(),
            episode=lambda call: replace(
                episodes(call),
                support_x=(2 * episodes(call).support_x).abs().to(dtype),
                query_x=(2 * episodes(call).query_x).abs().to(dtype),
            ),
            calls=12,
        ),
        name=f"inputs of {dtype}",
        ways=(("auto", 1), ("serial", 1)),
    )

for dtype, rtol in {torch.float32: 2e-5, torch.bfloat16: 0.15, torch.float16: 0.05}.items():
    cases(
        lambda dtype=dtype, rtol=rtol: Script(
            linear().to(dtype),
            episode=lambda call: episodes(call).map(lambda t: t.to(dtype) if t.is_floating_point() else t),
            rtol=rtol,
            calls=10,
            refusal=dtype == torch.float16,
        ),
        name=f"parameters of {dtype}",
        ways=(("auto", 1), ("serial", 1)),
    )


@cases.only(("auto", 1), ("serial", 1))
def complex_parameters() -> Script:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2, dtype=torch.complex128)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.to(torch.complex128)).abs()

    return Script(Complex(), refusal=True, calls=6)


@cases.only(("auto", 1), ("serial", 1))
def parameters_of_several_types() -> Script:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4).float(), linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x.float()).double())

    return Script(Mixed(), rtol=1e-5, calls=10)


@cases.only(("auto", 1), ("serial", 1))
def the_type_changes_from_call_to_call() -> Script:
    net = Casts()

    def sample(call: int) -> il.Episode:
        dtype = [torch.float64, torch.float32, torch.int64][call % 3]
        return replace(episodes(call), support_x=(3 * episodes(call).support_x).to(dtype))

    return Script(net, episode=sample, calls=18)


@cases.only(("auto", 1), ("serial", 1))
def targets_of_another_kind_from_call_to_call() -> Script:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs, y) if y.is_floating_point() else F.cross_entropy(outputs, y)

    return Script(linear(), loss, episode=lambda call: [episodes, targets_of_floats][call % 2](call), calls=16)


@cases.all
def test_sizes_types_and_values(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


def test_sparse_and_quantized_data_are_right_or_refused() -> None:
    e = episodes(0)
    sparse = replace(e, support_x=e.support_x.to_sparse())
    found: list[dict[str, Tensor]] = []
    if not refused(lambda: found.append(il.meta_gradient(linear(), il.maml(0.1), sparse)[0])):
        assert_answer(found[0], oracle.meta_gradient(linear(), tasks_of(e), F.cross_entropy).grads, 1)
