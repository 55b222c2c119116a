"""One model, one moment: every call is of the user's module as it is at that call, whatever was done to it."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, vector_to_parameters

import innerloop as il
from hostile.harness import Cases, Script, episodes, linear, mlp

cases = Cases()
Change = Callable[[nn.Sequential, int], object]


class Rich(nn.Module):
    """A module with all that can change: parameters, a buffer, modes, attributes, containers and layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.extra = nn.Parameter(torch.zeros(2))
        self.register_buffer("shift", torch.zeros(2))
        self.scale, self.scales, self.named = 1.0, [1.0], {"scale": 1.0}
        self.constant = torch.ones(1)
        self.config = types.SimpleNamespace(scale=1.0)
        self.act: Callable[[Tensor], Tensor] = torch.tanh
        self.double()
        self.constant = self.constant.double()

    def forward(self, x: Tensor) -> Tensor:
        factor = self.scale * self.scales[0] * self.named["scale"] * self.config.scale * self.constant
        hidden = self.act(self.first(x)) if self.training else self.first(x)
        return self.second(hidden) * factor + self.shift + self.extra


def new(like: Tensor, number: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(number), dtype=like.dtype)


@torch.no_grad()
def parameters_in_place(net, number):
    net.first.weight.add_(new(net.first.weight, number))


def parameters_by_data(net, number):
    net.first.weight.data.mul_(1.5)
    net.second.bias.data = new(net.second.bias, number)


def a_new_parameter(net, number):
    net.second.weight = nn.Parameter(new(net.second.weight, number))


def load_state_dict(net, number):
    net.load_state_dict({name: new(t, number) for name, t in net.state_dict().items()})


def load_state_dict_by_assignment(net, number):
    net.load_state_dict({name: new(t, number) for name, t in net.state_dict().items()}, assign=True)


def load_state_dict_of_a_part(net, number):
    net.second.load_state_dict({name: new(t, number) for name, t in net.second.state_dict().items()})


def a_vector_written_to_the_parameters(net, number):
    flat = torch.cat([p.detach().flatten() for p in net.parameters()])
    vector_to_parameters(new(flat, number), net.parameters())


def a_buffer_in_place(net, number):
    net.shift.fill_(number + 1)


def a_buffer_by_data(net, number):
    net.shift.data.fill_(number + 1)


def a_new_buffer(net, number):
    net.shift = torch.full((2,), number + 1.0).double()


def a_buffer_registered_again(net, number):
    net.register_buffer("shift", torch.full((2,), number + 1.0).double())


def eval_and_train(net, number):
    net.train(number % 2 == 1)


def an_attribute(net, number):
    net.scale = number + 2.0


def an_element_of_a_list(net, number):
    net.scales[0] = number + 2.0


def a_value_of_a_dict(net, number):
    net.named["scale"] = number + 2.0


def an_attribute_of_an_attribute(net, number):
    net.config.scale = number + 2.0


def a_constant_in_place(net, number):
    net.constant.fill_(number + 2)


def a_constant_by_data(net, number):
    net.constant.data.fill_(number + 2)


def a_constant_assigned(net, number):
    net.constant = torch.full((1,), number + 2.0).double()


def an_activation_function(net, number):
    net.act = [F.relu, F.elu, torch.sin, torch.cos][number]


def a_layer_replaced(net, number):
    torch.manual_seed(number)
    net.second = nn.Linear(4, 2).double()


def a_layer_replaced_by_another_kind(net, number):
    net.first = nn.Sequential(linear(3, 4), nn.ReLU()) if number % 2 == 0 else linear(3, 4)


def freezing(net, number):
    [net.extra, net.first.weight, net.second.bias, net.first.bias][number].requires_grad_(False)


def freezing_and_unfreezing(net, number):
    net.first.requires_grad_(number % 2 == 1)


def a_parameter_deleted(net, number):
    if number == 0:
        del net.extra
        net.register_buffer("extra", torch.ones(2).double())


def a_parameter_added(net, number):
    net.register_parameter(f"added{number}", nn.Parameter(torch.ones(()).double()))
    net.act = lambda x: torch.tanh(x)


def a_parameter_added_and_used(net, number):
    net.act = nn.PReLU(init=0.3 + number / 10).double()


def tying(net, number):
    if number == 0:
        net.extra = net.second.bias


def a_forward_method_put_on_the_instance(net, number):
    net.forward = types.MethodType(lambda self, x: self.second(self.first(x).sin()) + self.extra + number, net)


def a_class_assigned(net, number):
    class Other(Rich):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (number + 2)

    net.__class__ = Other


def a_forward_hook(net, number):
    net.second.register_forward_hook(lambda module, inputs, output: output * (number + 2))


def a_forward_hook_and_its_removal(net, number):
    if number % 2 == 0:
        net.hook = (net.first.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,)),)
    else:
        net.hook[0].remove()


def a_parametrization(net, number):
    if number == 0:
        parametrize.register_parametrization(net.second, "weight", Doubles())
    else:
        parametrize.remove_parametrizations(net.second, "weight") if number == 1 else None


class Doubles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def an_embedding_of_weights_in_one_memory(net, number):
    flat = new(torch.zeros(24, dtype=torch.float64), number)
    net.first.weight = nn.Parameter(flat[:12].view(4, 3))
    net.second.weight = nn.Parameter(flat[12:20].view(2, 4))


def a_weight_with_other_strides(net, number):
    net.first.weight = nn.Parameter(new(torch.zeros(3, 4, dtype=torch.float64), number).t())


CHANGES: list[Change] = [
    parameters_in_place,
    parameters_by_data,
    a_new_parameter,
    load_state_dict,
    load_state_dict_by_assignment,
    load_state_dict_of_a_part,
    a_vector_written_to_the_parameters,
    a_buffer_in_place,
    a_buffer_by_data,
    a_new_buffer,
    a_buffer_registered_again,
    eval_and_train,
    an_attribute,
    an_element_of_a_list,
    a_value_of_a_dict,
    an_attribute_of_an_attribute,
    a_constant_in_place,
    a_constant_by_data,
    a_constant_assigned,
    an_activation_function,
    a_layer_replaced,
    a_layer_replaced_by_another_kind,
    freezing,
    freezing_and_unfreezing,
    a_parameter_deleted,
    a_parameter_added,
    a_parameter_added_and_used,
    tying,
    a_forward_method_put_on_the_instance,
    a_class_assigned,
    a_forward_hook,
    a_forward_hook_and_its_removal,
    a_parametrization,
    an_embedding_of_weights_in_one_memory,
    a_weight_with_other_strides,
]


def changed(change: Change, at: tuple[int, ...]) -> Callable[[], Script]:
    def script() -> Script:
        net = Rich()
        return Script(net, change=lambda number: change(net, number), at=at, refusal=True, unused="ignore")

    return script


for change in CHANGES:
    name = change.__name__.replace("_", " ")
    cases(changed(change, (1, 2)), name=f"{name} before the first call", ways=(("auto", 1), (1, 2)), calls=5)
    cases(changed(change, (4, 9, 20)), name=f"{name} between calls", ways=(cases.next_way(),), calls=22)


class Layered(nn.Module):
    """Layers with settings that can be changed after they were made."""

    def __init__(self, layer: nn.Module, images: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.layer = (nn.Conv2d(1, 4, 3) if images else nn.Linear(3, 4)), layer
        self.head = nn.Linear(4, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.body(x))
        return self.head(x.flatten(2).mean(2) if x.ndim == 4 else x)


def images_of(call: int) -> il.Episode:
    e = episodes(call, features=36)
    return il.Episode(e.support_x.unflatten(2, (1, 6, 6)), e.support_y, e.query_x.unflatten(2, (1, 6, 6)), e.query_y)


SETTINGS: dict[str, tuple[Callable[[], nn.Module], bool, Callable[[Layered, int], object]]] = {
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
        net = Layered(layer(), of_images)
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
def test_a_call_is_of_the_module_as_it_is(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("wrap", ["spectral", "weight norm", "orthogonal", "old weight norm"])
@pytest.mark.parametrize("execution", ["serial", "auto"])
def test_parametrized_weights(wrap: str, execution: str) -> None:
    from hostile.harness import play

    net = mlp()
    if wrap == "spectral":
        parametrizations.spectral_norm(net[0])
        net.eval()  # in training its power iteration goes on with every forward pass
    elif wrap == "weight norm":
        parametrizations.weight_norm(net[0])
    elif wrap == "orthogonal":
        parametrizations.orthogonal(net[0], use_trivialization=False)
    else:
        with pytest.warns(FutureWarning):
            torch.nn.utils.weight_norm(net[0])

    @torch.no_grad()
    def change(number: int) -> None:
        for p in net.parameters():
            p.mul_(1.1)

    play(Script(net, change=change, refusal=True, copied=wrap != "old weight norm", calls=12), execution)
