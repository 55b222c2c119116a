"""Convolutions and batch norms of every kind, run together and one by one, to second order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same, finite_differences, plain_loss, rng, sgd_step, trainable
from torch import Tensor, nn

import innerloop as il

CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(2, 4, 3),
    "padded": lambda: nn.Conv2d(2, 4, 3, padding=1, bias=False),
    "stride": lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1),
    "long stride": lambda: nn.Conv2d(2, 4, 2, stride=3),
    "uneven": lambda: nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(0, 1)),
    "wide": lambda: nn.Conv2d(2, 4, 5, padding=2),
    "point": lambda: nn.Conv2d(2, 4, 1),
    "whole image": lambda: nn.Conv2d(2, 4, (7, 6)),
    "same": lambda: nn.Conv2d(2, 4, 3, padding="same"),
    "same, even kernel": lambda: nn.Conv2d(2, 4, 2, padding="same"),
    "valid": lambda: nn.Conv2d(2, 4, 3, padding="valid"),
    "dilated": lambda: nn.Conv2d(2, 4, 3, padding=2, dilation=2),
    "dilated stride": lambda: nn.Conv2d(2, 4, 2, stride=2, dilation=(2, 3), padding=1),
    "groups": lambda: nn.Conv2d(2, 4, 3, groups=2),
    "reflecting": lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(2, 4, 3, stride=2),
    "1-d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(2, 4, 3, stride=2), nn.Unflatten(2, (-1, 1))),
    "3-d": lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv3d(1, 4, (2, 3, 3)), nn.Flatten(2, 3)),
}
NORMS = {
    "none": nn.Identity,
    "batch": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "batch, not affine": lambda: nn.BatchNorm2d(4, affine=False, eps=0.1),
    "batch, stored": lambda: nn.BatchNorm2d(4),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "group": lambda: nn.GroupNorm(2, 4),
}


class Net(nn.Module):
    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.convolution, self.norm, self.head = convolution, norm, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.convolution(x))).mean((2, 3)))


def make(convolution: str, norm: str) -> nn.Module:
    net = Net(CONVOLUTIONS[convolution](), NORMS[norm]()).double()
    if norm.startswith("batch") and norm != "batch, not affine":
        nn.init.normal_(net.norm.weight)
        nn.init.normal_(net.norm.bias)
    return net


def episode(tasks: int = 3, dtype: torch.dtype = torch.float64) -> il.Episode:
    g = rng()
    x = torch.randn(tasks, 9, 2, 7, 6, generator=g, dtype=torch.float64).to(dtype)
    y = torch.randint(3, (tasks, 9), generator=g)
    return il.Episode(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])


def assert_alike(net: nn.Module, method: il.Method, tasks: il.Episode, **options) -> None:
    serial, expected = il.meta_gradient(net, method, tasks, execution="serial", **options)
    assert max(float(g.abs().max()) for g in serial.values()) > 1e-6
    for execution in ("batched", 2):
        grads, info = il.meta_gradient(net, method, tasks, execution=execution, **options)
        assert_same(grads, serial)
        torch.testing.assert_close(info.loss, expected.loss, rtol=1e-11, atol=0)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")  # torch's own
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_a_convolution_is_the_same_run_together(convolution: str) -> None:
    net, tasks = make(convolution, "none"), episode()
    assert_alike(net, il.maml(0.5, 2), tasks)
    at = trainable(net)
    loss = plain_loss(net, at, tasks, sgd_step(0.5), 2)
    expected = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
    assert_same(il.meta_gradient(net, il.maml(0.5, 2), tasks, execution="batched")[0], expected)


@pytest.mark.parametrize("mode", ["transductive", "inductive"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_the_same_run_together(norm: str, mode: str) -> None:
    assert_alike(make("stride", norm), il.maml(0.5, 2), episode(), norm=mode)


def test_stored_statistics_are_the_same_run_together() -> None:
    net = make("stride", "batch, stored")
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    assert_alike(net, il.maml(0.5, 2), episode(), norm="running")


@pytest.mark.parametrize("adapt", ["head.*", "convolution.*", "norm.*", "* !convolution.*", "convolution.weight"])
def test_weights_that_the_tasks_share_are_the_same_run_together(adapt: str) -> None:
    assert_alike(make("stride", "batch"), il.maml(0.5, 2, adapt=adapt), episode())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_memory_does_not_matter(layout: torch.memory_format) -> None:
    net, tasks = make("padded", "batch"), episode()
    expected, _ = il.meta_gradient(net, il.maml(0.5, 2), tasks, execution="serial")
    net = net.to(memory_format=layout)
    turned = tasks.map(lambda t: t.mT.contiguous().mT if t.ndim == 5 else t)
    for execution in ("serial", "batched"):
        assert_same(il.meta_gradient(net, il.maml(0.5, 2), turned, execution=execution)[0], expected)


@pytest.mark.parametrize("frozen", ["convolution", "norm"])
def test_frozen_layers_are_the_same_run_together(frozen: str) -> None:
    net = make("stride", "batch")
    getattr(net, frozen).requires_grad_(False)
    assert_alike(net, il.maml(0.5, 2), episode())


@pytest.mark.parametrize("tasks", [1, 2])
def test_few_tasks_are_the_same_run_together(tasks: int) -> None:
    assert_alike(make("stride", "batch"), il.maml(0.5, 2), episode(tasks))


def test_the_batched_gradient_of_a_convolutional_net_is_exact() -> None:
    """By finite differences of serial runs, which share nothing with what is tested."""
    net, tasks = make("stride", "batch"), episode(2)
    method = il.maml(0.5, 2)
    grads, _ = il.meta_gradient(net, method, tasks, execution="batched")

    def fn(meta: dict[str, Tensor]) -> float:
        return float(
            plain_loss(net, {n: p.requires_grad_() for n, p in meta.items()}, tasks, sgd_step(0.5), 2).detach()
        )

    names = ["norm.weight", "head.bias", "convolution.weight"]
    some = {n: p for n, p in trainable(net).items() if n in names}
    rest = {n: p.detach() for n, p in trainable(net).items()}
    slopes = finite_differences(lambda at: fn({**rest, **{n: p.clone() for n, p in at.items()}}), some)
    assert_same({n: grads[n] for n in some}, slopes, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("downsample", ["stride", "maxpool"])
@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_every_variant_of_conv4(downsample: str, pool: str) -> None:
    net = il.nets.conv4(3, channels=2, size=17, filters=3, downsample=downsample, pool=pool).double()
    x = torch.rand(3, 10, 2, 17, 17, generator=rng(), dtype=torch.float64)
    y = torch.arange(10).remainder(3).repeat(3, 1)
    assert_alike(net, il.maml(0.4, 2), il.Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:]))


def test_float32_is_near_float64() -> None:
    net, tasks = make("stride", "batch"), episode()
    exact, _ = il.meta_gradient(net, il.maml(0.5, 2), tasks, execution="batched")
    rough, info = il.meta_gradient(net.float(), il.maml(0.5, 2), episode(dtype=torch.float32), execution="batched")
    assert info.loss.dtype == torch.float32
    assert_same({n: g.double() for n, g in rough.items()}, exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("where", ["adapt", "evaluate"])
def test_new_tasks_are_the_same_run_together(where: str) -> None:
    net, tasks = make("stride", "batch"), episode()
    method = il.maml(0.5, 3)
    if where == "adapt":
        result = il.evaluate(net, method, lambda generator: tasks, tasks=3, execution="batched", norm="transductive")
        result = result.loss[:, -1]
        for i in range(3):
            params = il.adapt(net, method, tasks.support_x[i], tasks.support_y[i])
            outputs = torch.func.functional_call(net, params, (tasks.query_x[i],))
            torch.testing.assert_close(result[i], F.cross_entropy(outputs, tasks.query_y[i]))
        return
    for mode in ("transductive", "inductive"):
        serial, batched = (
            il.evaluate(net, method, lambda generator: tasks, tasks=3, execution=execution, norm=mode).loss
            for execution in ("serial", "batched")
        )
        torch.testing.assert_close(serial, batched, rtol=1e-11, atol=0)
