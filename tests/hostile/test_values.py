"""What is computed depends on values in the data, which are read in ways that a dispatcher may not see."""

from __future__ import annotations

import array
import collections
import copy
import ctypes
import fractions
import hashlib
import io
import math
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

import innerloop as il
from hostile import oracle
from hostile.harness import Cases, Script, assert_answer, episodes, linear, tasks_of

NORMAL, EVENT = 0.25, 5.0
ITEM = torch.Tensor.item

EXECUTOR = ThreadPoolExecutor(1)


def rarely_large(call: int) -> il.Episode:
    """Small numbers; in every seventh call a large one, in the support set of one task and the queries of another."""
    episode = episodes(call).map(lambda t: t.clamp(-1, 1) * NORMAL if t.is_floating_point() else t)
    if call % 7 == 0:
        support, queries = episode.support_x.clone(), episode.query_x.clone()
        support[0, -1, 0] = queries[1, 0, -1] = EVENT
        episode = il.Episode(support, episode.support_y, queries, episode.query_y)
    return episode


def by_pointer(x: Tensor) -> list[float]:
    """The first numbers of a tensor, which is alive as long as its memory is read."""
    return [ctypes.c_double.from_address(x.data_ptr() + 8 * i).value for i in range(6)]


def saved(x: Tensor) -> bytes:
    memory = io.BytesIO()
    torch.save(x, memory)
    return memory.getvalue()


def without_torch_function(x: Tensor) -> float:
    with torch._C.DisableTorchFunction():
        return x.max().item()


def without_modes(x: Tensor) -> float:
    with _disable_current_modes():
        return x.max().item()


def in_another_thread(x: Tensor) -> float:
    return EXECUTOR.submit(lambda: max(x.detach().flatten().tolist())).result()


def kept_and_read(x: Tensor, kept: list[Tensor] = []) -> float:  # noqa: B006
    kept.append(x.detach())
    return max(kept.pop().flatten().tolist())


def counted(x: Tensor) -> int:
    """How many numbers are large, by a size."""
    return torch.nonzero(x > 1).shape[0]


READERS: dict[str, Callable[[Tensor], Any]] = {
    "tolist": lambda x: max(map(max, x.tolist())) > 1,
    "item": lambda x: x.max().item() > 1,
    "item taken from the class before": lambda x: ITEM(x.max()) > 1,
    "bool": lambda x: bool(x.max() > 1),
    "int": lambda x: int(x.max()),
    "float": lambda x: float(x.max()) > 1,
    "complex": lambda x: complex(x.max()).real > 1,
    "round": lambda x: round(x.max().item()) > 1,
    "a function of math": lambda x: math.floor(x.max()) > 0,
    "the format of a tensor": lambda x: float(f"{x.max():.2f}") > 1,
    "NumPy": lambda x: x.detach().numpy().max() > 1,
    "NumPy by __array__": lambda x: np.asarray(x.detach()).max() > 1,
    "a ufunc of NumPy": lambda x: np.maximum(x.detach(), 0).max() > 1,
    "bytes of NumPy": lambda x: hashlib.sha256(np.maximum(x.detach().numpy(), 1).tobytes()).digest()[0] / 256,
    "a view of memory": lambda x: max(memoryview(x.detach().clone().numpy().reshape(-1))) > 1,
    "DLPack": lambda x: np.from_dlpack(x.detach().contiguous()).max() > 1,
    "a pointer": lambda x: max(by_pointer(x.detach().clone().contiguous())) > 1,
    "a storage": lambda x: any(x.detach().clamp(1, 2).clone().sub(1).untyped_storage().tolist()),
    "a text": lambda x: "5.0000" in repr(x.detach()),
    "a pickle": lambda x: len(set(pickle.loads(pickle.dumps(x.detach())).clamp(1, 2).flatten().tolist())) > 1,
    "what is saved": lambda x: float(torch.load(io.BytesIO(saved(x.detach()))).max()) > 1,
    "a deep copy": lambda x: copy.deepcopy(x.detach()).max().item() > 1,
    "torch.equal": lambda x: not torch.equal(x.clamp(max=1), x),
    "torch.allclose": lambda x: not torch.allclose(x.clamp(max=1), x),
    "torch.is_nonzero": lambda x: torch.is_nonzero((x > 1).sum()),
    "in": lambda x: EVENT in x,
    "the builtin max": lambda x: max(x.flatten()) > 1,
    "sorted": lambda x: sorted(x.flatten().detach())[-1].item() > 1,
    "any": lambda x: any(x.flatten() > 1),
    "a set": lambda x: len(set(x.detach().clamp(1, 2).flatten().tolist())) > 1,
    "a counter": lambda x: collections.Counter((x > 1).flatten().tolist())[True],
    "an array": lambda x: max(array.array("d", x.flatten().tolist())) > 1,
    "a fraction": lambda x: fractions.Fraction(x.max().item()) > 1,
    "map": lambda x: max(map(float, x.flatten())) > 1,
    "iterating": lambda x: sum(1 for row in x for value in row if value > 1),
    "a mask": lambda x: x[x > 1].numel(),
    "masked_select": lambda x: torch.masked_select(x, x > 1).numel(),
    "nonzero": counted,
    "unique": lambda x: torch.unique(x.detach().clamp(1, 2)).numel() - 1,
    "argwhere": lambda x: len(torch.argwhere(x > 1)),
    "where with one argument": lambda x: len(torch.where(x > 1)[0]),
    "bincount": lambda x: len(torch.bincount((x > 1).flatten().long())) - 1,
    "one_hot": lambda x: F.one_hot((x > 1).flatten().long()).shape[1] - 1,
    "repeat_interleave": lambda x: x[:1, 0].repeat_interleave((x.max() > 1).long()[None]).numel(),
    "a range": lambda x: len(range((x.max() > 1).long())),
    "a list as long as a tensor says": lambda x: len([0] * (x.max() > 1).long()),
    "a slice to a tensor": lambda x: x[: (x.max() > 1).long()].shape[0],
    "arange to a tensor": lambda x: len(torch.arange((x.max() > 1).long())),
    "the size of new zeros": lambda x: len(x.new_zeros((x.max() > 1).long())),
    "full of a size": lambda x: len(torch.full(((x.max() > 1).long(),), 1.0)),
    "split by numbers": lambda x: len(x.split([len(x) - counted(x), counted(x)])[1]),
    "tensor_split by a tensor": lambda x: len(torch.tensor_split(x, (x > 1).sum()[None].clamp(max=1).cpu())[0]),
    "roll by a number": lambda x: torch.arange(7.0).roll(int(x.max() > 1))[0].item(),
    "topk of so many": lambda x: x.flatten().topk(int((x > 1).sum()))[0].numel(),
    "an operation of aten": lambda x: torch.ops.aten._local_scalar_dense(x.max()) > 1,
    "item without torch functions": lambda x: without_torch_function(x) > 1,
    "item without modes": lambda x: without_modes(x) > 1,
    "another thread": lambda x: in_another_thread(x) > 1,
    "data": lambda x: x.data.max().item() > 1,
    "what was kept": lambda x: kept_and_read(x) > 1,
    "a seed": lambda x: random.Random(int(x.max())).random(),
    "no_grad": lambda x: torch.no_grad()(lambda: x.max().item())() > 1,
    "a subclass": lambda x: x.detach().as_subclass(torch.nn.Parameter).max().item() > 1,
}
"""Ways to see whether there is a large number: each gives a number, another where there is."""


class Looks(nn.Module):
    """A linear layer whose outputs are multiplied by what is read from its inputs."""

    def __init__(self, read: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.read = linear(), read

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (1.0 + self.read(x))


def looking(read: Callable[[Tensor], Any]) -> Callable[[], Script]:
    return lambda: Script(Looks(read), episode=rarely_large)


cases = Cases()
for sentence, read in READERS.items():
    cases(looking(read), name=f"the forward pass looks by {sentence}", ways=(("serial", 1),), calls=15)
    cases(looking(read), name=f"the forward pass looks by {sentence}", ways=(("auto", 1),), calls=15)


class Trims(nn.Module):
    """Leaves out the columns that are padding in all rows, and takes the mean of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear(1)

    def forward(self, x: Tensor) -> Tensor:
        width = max(max((i + 1 for i, value in enumerate(row) if value), default=1) for row in x.tolist())
        return self.layer(x[:, :width].mean(1, keepdim=True))


def padded(call: int) -> il.Episode:
    """Rows of which the last column is padding, but in every seventh call."""

    def shortened(t: Tensor) -> Tensor:
        return t * torch.tensor([1.0, 1.0, call % 7 == 0]).double() if t.is_floating_point() else t

    return episodes(call).map(shortened)


@cases.only(("serial", 1), ("auto", 1), ("serial", 2), calls=22)
def padding_is_trimmed_by_tolist() -> Script:
    return Script(Trims(), episode=padded)


def mostly_balanced(call: int) -> il.Episode:
    """Classes in a fixed order, and in every seventh call more of one than of the other."""
    episode = episodes(call)
    y, q = torch.tensor([[0, 1, 0, 1]] * 2), torch.tensor([[1, 0, 1]] * 2)
    if call % 7 == 0:
        y[0, 0], q[1, 2] = 1, 0
    return il.Episode(episode.support_x, y, episode.query_x, q)


CLASS_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "bincount of NumPy": lambda y: torch.from_numpy(1.0 / (1 + np.bincount(y.numpy(), minlength=2))),
    "a counter": lambda y: torch.tensor([1.0 / (1 + collections.Counter(y.tolist())[c]) for c in (0, 1)]).double(),
    "a list that counts": lambda y: torch.tensor([1.0 / (1 + y.tolist().count(c)) for c in (0, 1)]).double(),
    "sums of torch": lambda y: torch.stack([1.0 / (1 + (y == c).sum()) for c in (0, 1)]).double(),
    "unique": lambda y: 1.0 / (1.0 + torch.unique(y, return_counts=True)[1].double()),
    "bincount": lambda y: 1.0 / (1.0 + torch.bincount(y, minlength=2).double()),
}
for sentence, weights in CLASS_WEIGHTS.items():
    cases(
        lambda weights=weights: Script(
            linear(), lambda outputs, y: F.cross_entropy(outputs, y, weight=weights(y)), episode=mostly_balanced
        ),
        name=f"the loss weighs classes by {sentence}",
        ways=(("serial", 1), ("auto", 1)),
        calls=22,
    )


@cases.only(("serial", 1), ("auto", 1), ("serial", 2), calls=22)
def the_loss_leaves_out_the_hardest_examples_by_numpy() -> Script:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(outputs, y, reduction="none")
        return each[torch.from_numpy(np.argsort(each.detach().numpy())[:-1].copy())].mean()

    return Script(linear(), loss, episode=rarely_large)


@cases.only(("serial", 1), ("auto", 1), ("serial", 2), calls=22)
def the_number_of_steps_of_a_loop_depends_on_the_data() -> Script:
    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        while float(outputs.detach().abs().max()) > 1:
            outputs = outputs / 2
        return F.cross_entropy(outputs, y)

    return Script(linear(), loss, episode=rarely_large)


@cases.only(("serial", 1), ("auto", 1), ("serial", 2), calls=22)
def a_layer_is_chosen_by_the_label() -> Script:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([linear(), linear()])

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[int(x[0, 0] > 1)](x) + 0 * self.layers[0](x) + 0 * self.layers[1](x)

    def episode(call: int) -> il.Episode:
        e = rarely_large(call)
        return il.Episode(e.support_x.flip(1), e.support_y, e.query_x.flip(2), e.query_y)

    return Script(Chooses(), episode=episode)


@cases.only(("serial", 1), ("auto", 1), ("serial", 2), calls=22)
def an_exception_chosen_by_a_value_is_caught() -> Script:
    def read(x: Tensor) -> float:
        try:
            assert not (x > 1).any()
        except AssertionError:
            return 1.0
        return 0.0

    return Script(Looks(read), episode=rarely_large)


@cases.only(("serial", 1), ("auto", 1), ("serial", 2), calls=22)
def a_value_is_kept_from_the_forward_pass_for_the_loss() -> Script:
    net = Looks(lambda x: held.__setitem__(0, max(map(max, x.tolist()))) or 0.0)
    held = [0.0]
    return Script(net, lambda outputs, y: F.cross_entropy(outputs * (1 + (held[0] > 1)), y), episode=rarely_large)


@cases.all
def test_values_are_read_at_every_call(case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.play(monkeypatch)


@pytest.mark.parametrize("odd", [0, 5, 31])
@pytest.mark.parametrize("sentence", ["tolist", "NumPy", "NumPy by __array__", "tensor_split by a tensor", "item"])
def test_one_of_32_tasks_branches_otherwise(odd: int, sentence: str) -> None:
    net, e = Looks(READERS[sentence]), episodes(0, tasks=32)
    support = e.support_x.clamp(-1, 1) * NORMAL
    support[odd, 0, 0] = EVENT
    episode = il.Episode(support, e.support_y, e.query_x.clamp(-1, 1) * NORMAL, e.query_y)
    right = oracle.meta_gradient(net, tasks_of(episode), F.cross_entropy)
    grads, _ = il.meta_gradient(net, il.maml(0.1), episode, execution="serial")
    assert_answer(grads, right.grads, 1)
