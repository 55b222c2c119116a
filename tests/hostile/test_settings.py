"""Layers, losses and functions of PyTorch that are changed or patched between calls."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile.harness import Cases, Script, episodes, linear, mlp

cases = Cases()


def layered(layer: nn.Module, images: bool = False) -> nn.Module:
    """A network of PyTorch's own layers, whose meta-gradients are sure to be recorded where any are."""
    torch.manual_seed(0)
    pooled = [("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten())] if images else []
    body = nn.Conv2d(1, 4, 3) if images else nn.Linear(3, 4)
    return nn.Sequential(OrderedDict([("body", body), ("layer", layer), *pooled, ("head", nn.Linear(4, 2))])).double()


def images_of(call: int) -> il.Episode:
    e = episodes(call, features=36)
    return il.Episode(e.support_x.unflatten(2, (1, 6, 6)), e.support_y, e.query_x.unflatten(2, (1, 6, 6)), e.query_y)


SETTINGS: dict[str, tuple[Callable[[], nn.Module], bool, Callable[[Any, int], object]]] = {
    "the eps of layer norm": (lambda: nn.LayerNorm(4), False, lambda net, n: setattr(net.layer, "eps", n + 1.0)),
    "the eps of batch norm": (lambda: nn.BatchNorm1d(4), False, lambda net, n: setattr(net.layer, "eps", n + 1.0)),
    "the eps of batch norm of images": (
        lambda: nn.BatchNorm2d(4),
        True,
        lambda net, n: setattr(net.layer, "eps", n + 1.0),
    ),
    "the groups of group norm": (
        lambda: nn.GroupNorm(4, 4),
        True,
        lambda net, n: setattr(net.layer, "num_groups", [2, 1, 4][n]),
    ),
    "the slope of a leaky relu": (
        lambda: nn.LeakyReLU(0.1),
        False,
        lambda net, n: setattr(net.layer, "negative_slope", 0.2 * (n + 2)),
    ),
    "the padding of a convolution": (
        nn.Identity,
        True,
        lambda net, n: setattr(net.body, "padding", [(1, 1), (2, 2), (0, 0)][n]),
    ),
    "the stride of a convolution": (
        nn.Identity,
        True,
        lambda net, n: setattr(net.body, "stride", [(2, 2), (3, 3), (1, 1)][n]),
    ),
    "the padding mode of a convolution": (
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="zeros"),
        True,
        lambda net, n: setattr(net.layer, "padding_mode", ["circular", "reflect", "replicate"][n]),
    ),
    "the kernel of a pooling": (
        lambda: nn.MaxPool2d(2, 1),
        True,
        lambda net, n: setattr(net.layer, "kernel_size", [3, 1, 4][n]),
    ),
    "the probability of dropout": (
        lambda: nn.Dropout(0.0),
        False,
        lambda net, n: setattr(net.layer, "p", [1.0, 0.0, 1.0][n]),
    ),
    "the slope of a softplus": (lambda: nn.Softplus(), False, lambda net, n: setattr(net.layer, "beta", n + 2.0)),
    "the axis of a softmax": (lambda: nn.Softmax(1), False, lambda net, n: setattr(net.layer, "dim", [0, 1, 0][n])),
    "the layer that a list holds": (
        lambda: nn.Sequential(nn.Tanh()),
        False,
        lambda net, n: net.layer.__setitem__(0, [nn.ReLU(), nn.ELU(), nn.Sigmoid()][n]),
    ),
    "the layers that a list gets": (
        lambda: nn.Sequential(nn.Tanh()),
        False,
        lambda net, n: net.layer.append([nn.ReLU(), nn.ELU(), nn.Sigmoid()][n]),
    ),
}
for sentence, (layer, of_images, setting) in SETTINGS.items():

    def script(layer=layer, of_images=of_images, setting=setting) -> Script:
        net = layered(layer(), of_images)
        sampler = images_of if of_images else episodes
        return Script(net, change=lambda n: setting(net, n), episode=sampler, refusal=True, calls=22)

    cases(script, name=f"{sentence} is changed", ways=(cases.next_way(),))


LOSSES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, int], object]]] = {
    "the label smoothing": (nn.CrossEntropyLoss, lambda loss, n: setattr(loss, "label_smoothing", 0.1 * (n + 1))),
    "the reduction": (nn.CrossEntropyLoss, lambda loss, n: setattr(loss, "reduction", ["sum", "mean", "sum"][n])),
    "the class weights": (
        lambda: nn.CrossEntropyLoss(torch.ones(2).double()),
        lambda loss, n: setattr(loss, "weight", torch.tensor([1.0, n + 2.0]).double()),
    ),
    "the class weights in place": (
        lambda: nn.CrossEntropyLoss(torch.ones(2).double()),
        lambda loss, n: loss.weight[0].fill_(n + 2),
    ),
    "the class weights by data": (
        lambda: nn.CrossEntropyLoss(torch.ones(2).double()),
        lambda loss, n: loss.weight.data[0].fill_(n + 2),
    ),
    "the index that is ignored": (
        nn.CrossEntropyLoss,
        lambda loss, n: setattr(loss, "ignore_index", [1, -100, 0][n]),
    ),
}
for sentence, (make_loss, alter) in LOSSES.items():

    def loss_script(make_loss=make_loss, alter=alter) -> Script:
        loss = make_loss()
        return Script(linear(), loss, change=lambda n: alter(loss, n), calls=22)

    cases(loss_script, name=f"{sentence} of a loss module is changed", ways=(("auto", 1), cases.next_way()))


PATCHES: dict[str, Callable[[pytest.MonkeyPatch, int], object]] = {
    "F.relu": lambda patch, n: patch.setattr(F, "relu", lambda x, inplace=False: x.clamp(min=-n - 1)),
    "F.linear": lambda patch, n: patch.setattr(F, "linear", lambda x, w, b=None: (x @ w.mT + b) * (n + 2)),
    "F.cross_entropy": lambda patch, n: patch.setattr(F, "cross_entropy", lambda o, y, *a, **k: o.sum() * (n + 2)),
    "the forward method of nn.Linear": lambda patch, n: patch.setattr(
        nn.Linear, "forward", lambda self, x: x @ self.weight.mT * (n + 2) + self.bias
    ),
    "the forward method of nn.ReLU": lambda patch, n: patch.setattr(
        nn.ReLU, "forward", lambda self, x: x.clamp(min=-n - 1)
    ),
    "the call of nn.ReLU": lambda patch, n: patch.setattr(nn.ReLU, "__call__", lambda self, x: x * (n + 2)),
    "torch.relu": lambda patch, n: patch.setattr(torch, "relu", lambda x: x.clamp(min=-n - 1)),
    "Tensor.mean": lambda patch, n: patch.setattr(Tensor, "tanh", lambda x: x * (n + 2)),
}


class UsesAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = linear(3, 4), nn.ReLU(), linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.relu(self.first(x))) + self.first(x).tanh() + F.relu(self.first(x) + 0.1))


for sentence, alter_torch in PATCHES.items():

    def patched(patch: pytest.MonkeyPatch, alter_torch=alter_torch) -> Script:
        loss = lambda outputs, y: F.cross_entropy(outputs, y)  # noqa: E731
        return Script(UsesAll(), loss, change=lambda n: alter_torch(patch, n), calls=22)

    cases(patched, name=f"{sentence} is patched", ways=(("serial", 1), ("auto", 1)))


@cases
def a_net_of_plain_layers_whose_functions_are_patched(patch: pytest.MonkeyPatch) -> Script:
    change = lambda n: patch.setattr(F, "linear", lambda x, w, b=None: (x @ w.mT + b) * (n + 2))  # noqa: E731
    return Script(mlp(), change=change)


@cases
def a_hook_of_all_modules() -> Script:
    handles: list[torch.utils.hooks.RemovableHandle] = []

    @contextlib.contextmanager
    def hooked(call: int):
        if call % 4 == 0:
            handles.append(
                nn.modules.module.register_module_forward_hook(
                    lambda module, inputs, output: output * 2 if isinstance(module, nn.Linear) else output
                )
            )
        try:
            yield
        finally:
            while handles:
                handles.pop().remove()

    return Script(mlp(), around=hooked, calls=22)


@cases.all
def test_a_call_is_with_the_settings_as_they_are(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)
