"""One model, one moment: every call is of the user's module as it is at that call, whatever was done to it."""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, vector_to_parameters

from hostile.harness import LONG, MOMENTS, Cases, Script, linear, mlp

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


def an_activation_layer(net, number):
    net.act = [nn.ReLU(), nn.ELU(), nn.Sigmoid(), nn.Tanh()][number]


def another_call_of_the_activation(net, number):
    net.act.forward = lambda x: x * (number + 2)


def another_order_of_the_layers(net, number):
    net.add_module(f"again{number}", nn.Softsign())


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


def plain() -> nn.Module:
    """A network of PyTorch's own layers, whose meta-gradients are sure to be recorded where any are."""
    torch.manual_seed(0)
    layers = {"first": nn.Linear(3, 4), "act": nn.Tanh(), "second": nn.Linear(4, 2)}
    return nn.Sequential(OrderedDict(layers)).double()


PLAIN: list[Change] = [
    parameters_in_place,
    parameters_by_data,
    a_new_parameter,
    load_state_dict,
    load_state_dict_by_assignment,
    load_state_dict_of_a_part,
    a_vector_written_to_the_parameters,
    a_layer_replaced,
    a_layer_replaced_by_another_kind,
    freezing_and_unfreezing,
    a_forward_hook,
    a_forward_hook_and_its_removal,
    a_parametrization,
    an_embedding_of_weights_in_one_memory,
    a_weight_with_other_strides,
    an_activation_layer,
    another_call_of_the_activation,
    another_order_of_the_layers,
]


def changed(change: Change, at: tuple[int, ...], make: Callable[[], nn.Module] = Rich) -> Callable[[], Script]:
    def script() -> Script:
        net = make()
        return Script(net, change=lambda number: change(net, number), at=at, refusal=True, unused="ignore")

    return script


for change in CHANGES:
    name = change.__name__.replace("_", " ")
    cases(changed(change, (1, 2)), name=f"{name} before the first call", ways=(("auto", 1), (1, 2)), calls=5)
    cases(changed(change, (4, 9, 20)), name=f"{name} between calls", ways=(cases.next_way(),), calls=22)
for change in PLAIN:
    name = change.__name__.replace("_", " ")
    way = cases.next_way()
    cases(changed(change, MOMENTS, plain), name=f"{name} of a plain network", ways=(("auto", 1), way), calls=LONG)


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
