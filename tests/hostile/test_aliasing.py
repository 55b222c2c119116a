"""Tensors that share memory, are changed in place, come back as results, or have unusual sizes, types and values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import innerloop as il
from hostile import oracle
from hostile.harness import (
    Cases,
    Script,
    episodes,
    linear,
    tasks_of,
)

cases = Cases()


# -- episodes ---------------------------------------------------------------------------------------------------------


def the_queries_are_the_support_set(call: int) -> il.Episode:
    e = episodes(call)
    return il.Episode(e.support_x, e.support_y, e.support_x, e.support_y)


def the_queries_overlap_the_support_set(call: int) -> il.Episode:
    e = episodes(call, support=6)
    return il.Episode(e.support_x[:, :4], e.support_y[:, :4], e.support_x[:, 2:], e.support_y[:, 2:])


def all_tasks_are_one_expanded(call: int) -> il.Episode:
    return episodes(call, tasks=1).map(lambda t: t.expand(3, *t.shape[1:]))


def examples_are_one_expanded(call: int) -> il.Episode:
    return episodes(call, support=1, queries=1).map(lambda t: t.expand(2, 4, *t.shape[2:]))


def strided_and_transposed(call: int) -> il.Episode:
    e = episodes(call, features=6, tasks=4)
    return il.Episode(
        e.support_x.transpose(0, 1).contiguous().transpose(0, 1)[::2, :, ::2],
        e.support_y.t().contiguous().t()[::2],
        e.query_x.movedim(2, 0).contiguous().movedim(0, 2)[1::2, :, 1::2],
        e.query_y[1::2],
    )


def flipped_and_rolled(call: int) -> il.Episode:
    return episodes(call).map(lambda t: t.flip(0).roll(1, 1))


def a_part_of_a_larger_memory(call: int) -> il.Episode:
    whole = torch.randn(500, generator=torch.Generator().manual_seed(call), dtype=torch.float64)
    x, q = whole.as_strided((2, 4, 3), (7, 2, 1), 5), whole.as_strided((2, 3, 3), (1, 1, 1), 9)
    e = episodes(call)
    return il.Episode(x, e.support_y, q, e.query_y)


def other_layouts_from_call_to_call(call: int) -> il.Episode:
    return [the_queries_are_the_support_set, all_tasks_are_one_expanded, strided_and_transposed, episodes][call % 4](
        call
    )


def other_sizes_from_call_to_call(call: int) -> il.Episode:
    return episodes(call, tasks=1 + call % 3, support=1 + call % 2, queries=1 + call % 5)


def one_task_with_one_example(call: int) -> il.Episode:
    return episodes(call, tasks=1, support=1, queries=1)


def tensors_that_require_gradients(call: int) -> il.Episode:
    return episodes(call).map(lambda t: t.requires_grad_() if t.is_floating_point() else t)


def tensors_with_a_graph(call: int) -> il.Episode:
    leaf = torch.ones(3, dtype=torch.float64, requires_grad=True)
    return episodes(call).map(lambda t: t * leaf if t.is_floating_point() else t)


def a_subclass_of_tensors(call: int) -> il.Episode:
    return episodes(call).map(lambda t: t.as_subclass(Named))


class Named(Tensor):
    pass


for sampler in (
    the_queries_are_the_support_set,
    the_queries_overlap_the_support_set,
    all_tasks_are_one_expanded,
    examples_are_one_expanded,
    strided_and_transposed,
    flipped_and_rolled,
    a_part_of_a_larger_memory,
    other_layouts_from_call_to_call,
    other_sizes_from_call_to_call,
    one_task_with_one_example,
    tensors_that_require_gradients,
    tensors_with_a_graph,
    a_subclass_of_tensors,
):
    cases(
        lambda sampler=sampler: Script(
            linear(), episode=sampler, calls=20, refusal=sampler in (a_subclass_of_tensors, tensors_with_a_graph)
        ),
        name=sampler.__name__,
    )


@cases.only(("auto", 1), ("serial", 1), (1, 2))
def the_same_episode_changed_in_place() -> Script:
    episode = episodes(0)

    def sample(call: int) -> il.Episode:
        if call % 3 == 0:
            episode.support_x.mul_(1.1)
            episode.query_y.copy_(1 - episode.query_y)
        if call % 5 == 0:
            episode.query_x.data.add_(0.1)
            episode.support_x.numpy()[0, 0] = call
        return episode

    return Script(linear(), episode=sample)


@cases.only(("auto", 1), ("serial", 1))
def inputs_that_are_the_parameters() -> Script:
    """The support inputs are the very memory of the weights, and the weights change between calls."""
    net = nn.Linear(3, 2).double()

    def sample(call: int) -> il.Episode:
        e = episodes(call, support=2)
        return il.Episode(net.weight.data.expand(2, 2, 3), e.support_y, e.query_x, e.query_y)

    return Script(net, episode=sample, change=lambda n: net.weight.data.mul_(1.5))


@cases.only(("auto", 1), ("serial", 1))
def inputs_that_are_a_parameter() -> Script:
    net = nn.Linear(3, 2).double()

    def sample(call: int) -> il.Episode:
        e = episodes(call, support=2, tasks=1)
        return il.Episode(net.weight[None], e.support_y, net.weight[None], e.support_y)

    return Script(net, episode=sample, refusal=True, calls=10)


# -- forward passes and losses that write --------------------------------------------------------------------------


class Writes(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = linear(3, 4), linear(4, 2), how
        self.register_buffer("seen", torch.zeros(3, dtype=torch.float64))
        self.kept = torch.zeros(1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "adds to its input":
            x += 1
        elif self.how == "uses a relu in place":
            x = F.relu(x, inplace=True)
        elif self.how == "writes an element of its input":
            x[0, 0] = 3.0
        elif self.how == "writes to a view of its input":
            x.view(-1)[::2].mul_(2)
        elif self.how == "writes to the data of its input":
            x.data.mul_(2)
        elif self.how == "writes by NumPy":
            x.detach().numpy()[:] *= 2
        elif self.how == "updates a buffer":
            self.seen += x.detach().mean(0)
            x = x + self.seen
        elif self.how == "assigns a buffer anew":
            self.seen = self.seen + x.detach().mean(0)
            x = x + self.seen
        elif self.how == "writes to a constant":
            self.kept += 1
            x = x * self.kept
        elif self.how == "writes to what it computed":
            hidden = self.first(x)
            hidden[:, 1:] *= 2
            hidden += hidden.detach()
            return self.second(hidden)
        return self.second(self.first(x).tanh())


for how, refusal in {
    "adds to its input": False,
    "uses a relu in place": False,
    "writes an element of its input": False,
    "writes to a view of its input": True,
    "writes to the data of its input": True,
    "writes by NumPy": False,
    "updates a buffer": True,
    "assigns a buffer anew": True,
    "writes to what it computed": False,
}.items():
    cases(
        lambda how=how, refusal=refusal: Script(Writes(how), calls=12, refusal=refusal, kind="fomaml"),
        name=f"a forward pass that {how}",
        ways=(("serial", 1), ("auto", 1)),
    )


def subtracts_in_place(outputs: Tensor, y: Tensor) -> Tensor:
    outputs -= outputs.detach().mean()
    return F.cross_entropy(outputs, y)


def flips_the_targets_in_place(outputs: Tensor, y: Tensor) -> Tensor:
    y.neg_().add_(1)
    return F.cross_entropy(outputs, y)


for loss in (subtracts_in_place, flips_the_targets_in_place):
    cases(
        lambda loss=loss: Script(
            linear(),
            loss,
            calls=12,
            refusal=True,
            expected=lambda call, e, loss=loss: oracle.meta_gradient(
                linear(), tasks_of(e), lambda outputs, y: loss(outputs.clone(), y.clone())
            ),
        ),
        name=f"a loss that {loss.__name__}",
        ways=(("serial", 1), ("auto", 1), (1, 2)),
    )


# -- modules that hold a tensor twice ------------------------------------------------------------------------------


class Shares(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.how = linear(3, 3), how
        self.head = linear(3, 2)
        if how == "a layer under two names":
            self.b = self.a
        elif how == "a layer under two names and a tied weight":
            self.b, self.c = self.a, linear(3, 3)
            self.c.weight = self.a.weight
        elif how == "a tied weight":
            self.c = linear(3, 3)
            self.c.weight = self.a.weight
        elif how == "a weight in a list of parameters":
            self.list = nn.ParameterList([self.a.weight, self.a.bias])
        elif how == "a weight in a plain list":
            self.plain = [self.a.weight]
        elif how == "a weight in a tuple":
            self.plain = (self.a.weight,)
        elif how == "a layer in a plain list":
            self.plain = [self.a]
        elif how == "a layer in a closure":
            a = self.a
            self.call = lambda x: a(x)
        elif how == "a bound method of a layer":
            self.call = self.a.forward
        elif how == "a view of a weight":
            self.plain = [self.a.weight.detach().t()]
        elif how == "two parameters in one memory":
            flat = torch.randn(18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            self.a.weight = nn.Parameter(flat[:9].view(3, 3))
            self.c = linear(3, 3)
            self.c.weight = nn.Parameter(flat[:9].view(3, 3))
        elif how == "a layer in its own child":
            self.a.parent = (self,)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).tanh()
        if hasattr(self, "b"):
            x = self.b(x).tanh()
        if hasattr(self, "c"):
            x = self.c(x).tanh()
        if hasattr(self, "list"):
            x = F.linear(x, self.list[0], self.list[1]).tanh()
        if hasattr(self, "call"):
            x = self.call(x).tanh()
        if hasattr(self, "plain"):
            kept = self.plain[0]
            x = (kept(x) if isinstance(kept, nn.Module) else x @ kept).tanh()
        if self.how == "a layer in its own child":
            x = self.a.parent[0].a(x).tanh()
        return self.head(x)


def hand_written(how: str) -> Callable[[int, il.Episode], oracle.Answer]:
    """The same network without the sharing that deep copies and swaps do not follow."""

    class Plain(Shares):
        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).tanh()
            x = x @ self.a.weight if how in ("a weight in a plain list", "a weight in a tuple") else self.a(x)
            return self.head(x.tanh())

    return lambda call, e: oracle.meta_gradient(Plain("nothing"), tasks_of(e), F.cross_entropy)


SHARED = {
    "a layer under two names": False,
    "a layer under two names and a tied weight": False,
    "a tied weight": False,
    "a weight in a list of parameters": False,
    "a weight in a plain list": True,
    "a weight in a tuple": True,
    "a layer in a plain list": False,
    "a layer in a closure": True,
    "a bound method of a layer": True,
    "a view of a weight": False,
    "two parameters in one memory": False,
    "a layer in its own child": False,
}
for how, refusal in SHARED.items():
    by_hand = refusal
    cases(
        lambda how=how, refusal=refusal, by_hand=by_hand: Script(
            Shares(how), calls=8, steps=2 - by_hand, refusal=refusal, expected=hand_written(how) if by_hand else None
        ),
        name=f"a module with {how}",
    )


@cases.only(("serial", 1), ("auto", 1))
def a_loss_that_reads_the_modules_own_parameters() -> Script:
    """A penalty on the parameters: of the adapted ones in the inner loop, or of the initialisation, or refused."""
    net = linear()

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y) + 0.1 * net.weight.pow(2).sum()

    def expected(call: int, e: il.Episode) -> oracle.Answer:
        return oracle.meta_gradient(net, tasks_of(e), loss, copied=False)

    return Script(net, loss, refusal=True, expected=expected, calls=6)


@cases.all
def test_memory_that_is_shared_or_written_to(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)
