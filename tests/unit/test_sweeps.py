"""Sweeps: kernels on a few images at a time give the bits of the kernels on all images."""

from __future__ import annotations

import pytest
import torch
from core_helpers import rng
from torch import Tensor, nn

import innerloop as il
from innerloop.engine.kernels import why_no_kernels
from innerloop.engine.replay import arrangement, sweeps
from innerloop.engine.replay.sweeps import Sweep

pytestmark = pytest.mark.skipif(why_no_kernels() is not None, reason="there are no kernels")


def block(inside: int, out: int, *, stride: int = 1, pool: int = 0) -> list[nn.Module]:
    layers = [nn.Conv2d(inside, out, 3, stride, padding=1), nn.BatchNorm2d(out, track_running_stats=False), nn.ReLU()]
    return layers + ([nn.MaxPool2d(pool)] if pool else [])


class Doubled(nn.Module):
    """Uses the output of a batch norm twice, and outside of the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Sequential(*block(1, 16)), nn.Sequential(*block(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) + torch.tanh(x)


BODIES = {
    "strides": lambda: nn.Sequential(*block(1, 16, stride=2), *block(16, 32, stride=2), *block(32, 16)),
    "pooling": lambda: nn.Sequential(*block(1, 16, pool=2), *block(16, 16, pool=2)),
    "no scale": lambda: nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16, affine=False), *block(16, 16)[:2]),
    "odd channels": lambda: nn.Sequential(*block(1, 5), *block(5, 17, stride=2), *block(17, 16)),
    "many channels": lambda: nn.Sequential(*block(1, 16, stride=2), *block(16, 80, stride=2), *block(80, 16)),
    "group norm": lambda: nn.Sequential(nn.Conv2d(1, 16, 3), nn.GroupNorm(4, 16), *block(16, 16)),
    "short lines": lambda: nn.Sequential(nn.MaxPool2d(3), *block(1, 16), *block(16, 16)),
    "used twice": Doubled,
}


def net_of(body: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(BODIES[body](), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)).to(dtype)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and layer.weight is not None:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return net


def episode(dtype: torch.dtype, seed: int = 0) -> il.Episode:
    x = torch.randn(2, 9, 1, 15, 14, generator=rng(seed), dtype=torch.float64).to(dtype)
    y = torch.arange(3).repeat(2, 3)
    return il.Episode(x[:, :4], y[:, :4], x[:, 4:], y[:, 4:])


@pytest.fixture
def orders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[list[object]]:
    """The steps of all recordings made. The parameter, if there is one, is the size of the cache."""
    made: list[list[object]] = []

    def noted(*arguments: object) -> object:
        ordered = sweeps.swept(*arguments)  # type: ignore[arg-type]
        made.append([step for step, _ in ordered])
        return ordered

    monkeypatch.setattr(sweeps, "CACHE", getattr(request, "param", 1))
    monkeypatch.setattr(arrangement, "swept", noted)
    return made


@pytest.mark.parametrize(
    ("body", "dtype", "orders"),
    [
        *((body, torch.float32, 1) for body in BODIES),  # one image at a time
        ("pooling", torch.float64, 1),
        ("strides", torch.float32, 1 << 14),
        ("pooling", torch.float32, 1 << 30),
    ],
    indirect=["orders"],
)
def test_a_sweep_gives_the_same_bits(body: str, dtype: torch.dtype, orders: list[list[object]]) -> None:
    net, method = net_of(body, dtype), il.maml(0.1, 2)
    engine = il.Engine(net, execution=2, replay="auto")
    for seed in range(5):
        engine.meta_gradient(method, episode(dtype, seed))
    assert any("recorded, and used" in line for line in engine.explain().recordings), engine.explain()
    found = [step for order in orders for step in order if isinstance(step, Sweep)]
    assert found
    assert max(len(sweep.parts) for sweep in found) > 2  # several kernels do become one sweep
    last = episode(dtype, 7)
    grads, _ = engine.meta_gradient(method, last)
    expected, _ = il.Engine(net, execution=2, replay="off").meta_gradient(method, last)
    for name, grad in grads.items():
        assert torch.equal(grad, expected[name]), name
    serial, _ = il.Engine(net, execution="serial", replay="off").meta_gradient(method, last)
    # A bias before batch norm has a gradient of rounding errors. So the largest gradient says what is small.
    largest = max(float(grad.abs().max()) for grad in serial.values())
    for name, grad in grads.items():
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(grad, serial[name], rtol=0, atol=tolerance * largest)


def test_the_output_of_a_batch_norm_is_not_kept(orders: list[list[object]]) -> None:
    engine = il.Engine(net_of("strides", torch.float32), execution=2)
    for seed in range(5):
        engine.meta_gradient(il.maml(0.1, 1), episode(torch.float32, seed))
    assert orders
    applied = [
        (sweep, part) for sweep in orders[0] if isinstance(sweep, Sweep) for part in sweep.parts if part.name == "apply"
    ]
    kept = [use.block for sweep, part in applied for use in part.uses if use.written and use.block not in sweep.local]
    # Of each forward pass, only the last output is kept: torch reads it.
    assert len(set(kept)) == 2
    assert len(applied) > 6  # those of the support are computed again for the gradient and its derivative
