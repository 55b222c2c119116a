"""Linear layers and attention of many tasks: values and derivatives of every order, and how they are reached."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from core_helpers import assert_same
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, vmap

import innerloop as il
from innerloop.engine.kernels import linear as products
from innerloop.engine.kernels import taskwise
from innerloop.engine.kernels.linear import Weights, linear
from innerloop.inner.private import levels
from innerloop.params import aliased, expand_tasks

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, as leaves."""
    g = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_()


def by_torch(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """The same by a sum of products, which broadcasts."""
    middle = (None,) * (x.ndim - w.ndim + 1)
    n = w.ndim - 2
    y = (x[..., None, :] * w[(slice(None),) * n + middle]).sum(-1)
    return y if b is None else y + b[(slice(None),) * n + middle]


def ours(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return linear(x, Weights(w), b)


SHAPES = [
    ((3, 4, 2), (3, 5, 2), (3, 5)),  # weights of each task
    ((3, 2, 4, 2), (3, 5, 2), (3, 5)),  # an axis more
    ((3, 2), (3, 5, 2), (3, 5)),  # a vector for each task
    ((3, 4, 2), (1, 5, 2), (1, 5)),  # weights for all tasks
    ((3, 4, 2), (1, 5, 2), (3, 5)),
    ((3, 4, 2), (3, 5, 2), (1, 5)),
    ((3, 2, 4, 2), (3, 1, 5, 2), (3, 1, 5)),  # two axes of tasks
    ((3, 2, 4, 2), (3, 1, 5, 2), (3, 2, 5)),
    ((3, 2, 4, 2), (1, 2, 5, 2), (1, 2, 5)),
    ((4, 2), (5, 2), (5,)),  # no tasks
    ((2, 40, 2), (2, 3, 2), None),  # many rows
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_a_layer_to_third_order(shapes: tuple[tuple[int, ...], ...]) -> None:
    x, w, b = (None if shape is None else numbers(*shape) for shape in shapes)
    inputs = [t for t in (x, w, b) if t is not None]

    def orders(layer: Callable[..., Tensor]) -> list[Tensor]:
        found = [layer(x, w, b)]
        for _ in range(3):
            loss = sum((t / 4).sin().square().sum() for t in found[-len(inputs) :])
            found += torch.autograd.grad(loss, inputs, create_graph=True)
        return found

    torch.testing.assert_close(orders(ours), orders(by_torch))


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_numerically_to_second_order(shared: bool) -> None:
    inputs = numbers(2, 3, 2), numbers(1 if shared else 2, 2, 2), numbers(2, 2)
    assert gradcheck(ours, inputs)
    assert gradgradcheck(ours, inputs)


@pytest.mark.parametrize("rows", [2, 40])
@pytest.mark.parametrize("start", ["own", "one"])
def test_weights_that_are_used_several_times(start: str, rows: int) -> None:
    """By three steps, second derivatives included; each pass gives what it is asked for, and no more."""
    x, theta = numbers(3, rows, 2), numbers(2, 2)

    def gradients(layer: Callable[[Tensor, Tensor], Tensor] | None) -> list[Tensor]:
        if start == "one":
            w = aliased(expand_tasks({"w": theta}, 3))["w"]
        else:
            w = torch.stack([theta, 2 * theta, theta.sin()])
        uses = Weights(w)
        y = x
        for _ in range(3):
            y = (linear(y, uses) if layer is None else layer(y, w)).tanh()
        (only_x,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        (of_w,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
        (again,) = torch.autograd.grad(y.square().sum(), w, retain_graph=True)
        moved = w - 0.1 * of_w
        return [
            only_x,
            of_w,
            again,
            *torch.autograd.grad((moved.sin() * y.sum()).sum() + of_w.pow(3).sum(), (theta, x)),
        ]

    torch.testing.assert_close(gradients(None), gradients(lambda y, w: y @ w.mT))


def test_the_sum_over_tasks_is_taken_in_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all start from the same weights, the last pass makes no weights' gradient of each task."""
    shapes: list[torch.Size] = []
    forward = products._WeightGradient.forward

    def seen(ctx: object, *arguments: object) -> Tensor:
        result: Tensor = forward(ctx, *arguments)
        shapes.append(result.shape)
        return result

    monkeypatch.setattr(products._WeightGradient, "forward", staticmethod(seen))
    net, x = nn.Linear(4, 3), torch.randn(5, 6, 4)
    episode = il.Episode(x, torch.randn(5, 6, 3), x, torch.randn(5, 6, 3))
    il.meta_gradient(net, il.maml(0.1, 1), episode, F.mse_loss, execution="batched")
    assert shapes == [(5, 3, 4), (5, 3, 4), (3, 4)]  # the inner gradient, the query loss's, and the rest


def test_nothing_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[products._Uses]] = []
    start = products._Uses.__init__

    def noted(self: products._Uses, w: Tensor) -> None:
        made.append(weakref.ref(self))
        start(self, w)

    monkeypatch.setattr(products._Uses, "__init__", noted)
    net, x = il.nets.mlp(2, 3, (4,)), torch.randn(5, 6, 2)
    episode = il.Episode(x, torch.randn(5, 6, 3), x, torch.randn(5, 6, 3))
    for method in (il.maml(0.1, 2), il.anil(0.1, 2)):
        il.meta_gradient(net, method, episode, F.mse_loss, execution="batched")
    gc.collect()
    assert made
    assert not any(ref() for ref in made)
    assert not products._noted.pairs


def test_a_pass_that_failed_leaves_nothing_to_the_next() -> None:
    x, w = numbers(2, 3, 2), numbers(2, 2, 2)

    def fails(_: Tensor) -> None:
        raise RuntimeError("of the middle of a pass")

    uses = Weights(w)
    first = linear(x, uses)
    first.register_hook(fails)
    with pytest.raises(RuntimeError, match="middle of a pass"):
        linear(first.tanh(), uses).sum().backward()
    torch.testing.assert_close(
        *(torch.autograd.grad(f(x.detach(), w, None).sum(), w) for f in (ours, by_torch)), rtol=1e-12, atol=0
    )
    assert not products._noted.pairs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the weights of each layer that is replaced."""
    seen: list[torch.Size] = []

    def counted(x: Tensor, weights: Weights, bias: Tensor | None = None) -> Tensor:
        seen.append(weights.value.shape)
        return linear(x, weights, bias)

    monkeypatch.setattr("innerloop.engine.kernels.intercept.linear", counted)
    return seen


class Odd(nn.Module):
    """Uses a layer twice, once without a gradient, a product of its own of the weights, and a layer of no tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = self.first(x).sigmoid()
        y = self.first(self.first(x).tanh()) * gate + x @ self.first.weight * 0.1
        return self.second(y[:, None].expand(-1, 2, -1)).sum(1) + F.linear(x, self.second.weight.t().t())


@pytest.mark.parametrize("name", ["maml", "anil", "fomaml", "reptile"])
def test_an_unmodified_module_reaches_the_products(name: str, calls: list[torch.Size]) -> None:
    method = il.METHODS[name](0.1, 2, **({"inner_batch": None} if name == "reptile" else {}))
    net, x = Odd().double(), numbers(3, 6, 4).detach()
    episode = il.Episode(x, numbers(3, 6, 3).detach(), x.cos(), numbers(3, 6, 3, seed=1).detach())
    serial = il.meta_gradient(net, method, episode, F.mse_loss, execution="serial")[0]
    assert not calls
    assert_same(il.meta_gradient(net, method, episode, F.mse_loss, execution="batched")[0], serial)
    assert {(3, 4, 4), (3, 3, 4)} & set(calls)


@pytest.mark.parametrize("own", [True, False], ids=["of the library's own", "of the model's"])
def test_a_nested_vmap_and_other_transforms(own: bool, calls: list[torch.Size]) -> None:
    net, x = nn.Linear(4, 3).double(), numbers(2, 5, 6, 4).detach()
    params = {n: torch.stack([p, 2 * p]).detach() for n, p in net.named_parameters()}

    def one(params: dict[str, Tensor], x: Tensor) -> Tensor:
        def inner(t: Tensor) -> Tensor:
            with levels.one_deeper() if own else contextlib.nullcontext():
                return functional_call(net, params, (t,))

        return vmap(inner)(x)

    expected = torch.stack([F.linear(x[i], params["weight"][i], params["bias"][i]) for i in (0, 1)])
    with taskwise(CPU):
        torch.testing.assert_close(vmap(one)(params, x), expected)
        assert [calls.pop()] == [(2, 1, 3, 4)] if own else not calls
        vmap(torch.func.grad(lambda w, x: F.linear(x, w).pow(2).sum()))(params["weight"], x)
        F.linear(x, params["weight"][0])
        with pytest.raises(RuntimeError, match=r"size|shape"):
            vmap(F.linear)(x[..., :3], params["weight"])
    assert not calls


class Attending(nn.Module):
    """Attention of every form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        sizes = {"kdim": 3, "vdim": 2} if "sizes" in form else {}
        options = {"bias": "bias" not in form, "batch_first": "first" in form, "add_bias_kv": "kv" in form}
        self.attention = nn.MultiheadAttention(4, 2, **options, **sizes)
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        form, n = self.form, len(x)
        x = x if "first" in form else x.transpose(0, 1)
        other = x.sin() if "cross" in form else x
        key, value = (other[..., :3], other[..., :2]) if "sizes" in form else (other, other)
        causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=x.dtype)
        masks = {"causal": causal, "booleans": causal.bool(), "each": causal.expand(2 * n, 5, 5)}
        mask = next((m for name, m in masks.items() if name in form), None)
        padding = None
        if "padding" in form:
            padding = torch.arange(5) >= torch.arange(5, 5 - n, -1).clamp_min(1)[:, None]
            padding = (
                padding
                if mask is None or mask.dtype == torch.bool
                else torch.zeros(n, 5, dtype=x.dtype).masked_fill(padding, -1e9)
            )
        if "single" in form:
            return torch.stack([self.attention(t, t, t, need_weights="weights" in form)[0] for t in x.unbind(1)])
        y, seen = self.attention(
            *(x, key, value) if "cross" in form or "sizes" in form else (x,) * 3,
            key_padding_mask=padding,
            attn_mask=mask,
            need_weights="weights" in form,
            average_attn_weights="heads" not in form,
        )
        y = y if "first" in form else y.transpose(0, 1)
        return y if seen is None else y + seen.reshape(n, -1).sum(1)[:, None, None] + seen.pow(2).sum()


FORMS = [
    *("first", "plain", "plain bias", "first weights", "first weights heads", "first sizes", "plain cross"),
    *(
        "first causal",
        "plain booleans weights",
        "first each padding",
        "padding",
        "single",
        "single weights",
        "first kv",
    ),
]


@pytest.mark.parametrize("form", FORMS)
def test_attention_of_every_form_is_pytorchs(form: str, calls: list[torch.Size]) -> None:
    net, x = Attending(form).double(), numbers(2, 3, 5, 4).detach()
    y = torch.randn_like(net(x[0])).expand(2, *net(x[0]).shape)
    episode = il.Episode(x, y, x.cos(), y)
    for method in (il.maml(0.1, 2), il.fomaml(0.1, 1)):
        (together, info), (alone, other) = (
            il.meta_gradient(net, method, episode, F.mse_loss, execution=execution)
            for execution in ("batched", "serial")
        )
        assert_same(together, alone)
        torch.testing.assert_close(info.loss, other.loss)
    assert ("kv" in form) == (not calls)


def test_recurrent_steps_share_their_products(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    forward = products._WeightGradient.forward

    def seen(ctx: object, shape: torch.Size, *pairs: Tensor) -> Tensor:
        counts.append(len(pairs) // 2)
        return forward(ctx, shape, *pairs)

    monkeypatch.setattr(products._WeightGradient, "forward", staticmethod(seen))
    net, x = nn.LSTM(3, 4), numbers(7, 2, 3).detach()
    layer = net.double()
    params = {n: torch.stack([p, 2 * p]).detach().requires_grad_() for n, p in layer.named_parameters()}
    with taskwise(CPU):
        y = vmap(lambda params: functional_call(layer, params, (x,))[0])(params)
    torch.autograd.grad(y.sum(), list(params.values()))
    assert sorted(counts) == [1, 7]


def test_rows_far_and_near_agree() -> None:
    """Pairs of few rows are joined, pairs of many are not: the same sums."""
    w = numbers(2, 3, 4)
    grads = []
    for few in (0, 1000):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(products, "FEW", few)
            uses = Weights(w)
            y = sum(linear(numbers(2, rows, 4), uses).sin().sum() for rows in (3, 5))
            grads.append(torch.autograd.grad(y, w)[0])
    torch.testing.assert_close(*grads)
