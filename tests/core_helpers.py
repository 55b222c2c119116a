"""What the tests of the core share. Each helper that asserts is made to fail once in test_core_helpers.py."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import innerloop as il
from innerloop.inner.starts import NearestNeighbours


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CLASSIFICATION = {name for name, make in il.METHODS.items() if getattr(make().test.start, "of_classes", False)}
"""The methods that refuse regression, as test_contract.py sees."""


def build(name: str, **wanted: Any) -> il.Method:
    """The registered method, with those of the wanted arguments that it takes.

    Networks without a context or warp layers of their own lend their last layer to methods that need them.
    """
    make = il.METHODS[name]
    taken = inspect.signature(make).parameters
    wanted = {"context": "@last", "warps": "@last", **wanted}
    return make(**{key: value for key, value in wanted.items() if key in taken})


def takes(name: str, argument: str) -> bool:
    """Whether the function that makes the registered method has such an argument."""
    return argument in inspect.signature(il.METHODS[name]).parameters


def small(name: str, **wanted: Any) -> il.Method:
    """The registered method with few inner steps, on mini-batches where it has them."""
    return build(name, **{"inner_lr": 0.05, "inner_steps": 2, "inner_batch": 3, "test_steps": 2, **wanted})


LEARNING = [name for name, make in il.METHODS.items() if make().learns]
"""The methods that have a meta-gradient other than zero."""


def headed(net: nn.Module, name: str) -> nn.Module:
    """The network, with a last layer that keeps examples for the method that needs one."""
    if isinstance(il.METHODS[name]().test.start, NearestNeighbours):
        path, last = [(path, layer) for path, layer in net.named_modules() if isinstance(layer, nn.Linear)][-1]
        net.set_submodule(path, il.nets.Neighbours(last.in_features, last.out_features).to(last.weight))
    return net


def image_episode(tasks: int = 5, ways: int = 5, shots: int = 1, queries: int = 5, seed: int = 0) -> il.Episode:
    """Noise images in float64, ``queries`` of them in all."""
    g = rng(seed)

    def draw(n):
        return torch.rand(tasks, n, 1, 28, 28, generator=g, dtype=torch.float64)

    labels = torch.arange(ways)
    return il.Episode(
        draw(ways * shots),
        labels.repeat(tasks, shots),
        draw(queries),
        labels.repeat(tasks, -(-queries // ways))[:, :queries],
    )


def vector_episode(
    tasks: int = 5, features: int = 4, ways: int = 3, support: int = 6, queries: int = 4, seed: int = 0
) -> il.Episode:
    """Noise vectors in float64, with random classes."""
    g = rng(seed)
    x = torch.randn(tasks, support + queries, features, generator=g, dtype=torch.float64)
    y = torch.randint(ways, (tasks, support + queries), generator=g)
    return il.Episode(x[:, :support], y[:, :support], x[:, support:], y[:, support:])


def regression_episode(tasks: int = 4, support: int = 5, queries: int = 5, seed: int = 0) -> il.Episode:
    """Sinusoids in float64."""
    return il.data.sinusoids().episodes(support, queries, tasks)(rng(seed)).map(Tensor.double)


def smooth_net(features: int = 4, ways: int = 3, hidden: int = 5) -> nn.Module:
    """A float64 network without kinks, so that finite differences are exact."""
    return nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, ways)).double()


def trainable(net: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def meta_params_of(params: Mapping[str, Tensor], method: il.Method) -> dict[str, Tensor]:
    """All meta-parameters in one dictionary, as before meta-training."""
    return method.meta(params).named()


def plain_loss(
    net: nn.Module,
    params: Mapping[str, Tensor],
    episode: il.Episode,
    step: Callable[[dict[str, Tensor], dict[str, Tensor], Any, int], tuple[dict[str, Tensor], Any]],
    steps: int,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """The mean query loss after the inner loop, written out as loops; ``step`` is (params, grads, state, number)."""
    losses = []
    for i in range(episode.tasks):
        now, state = dict(params), None
        for k in range(1, steps + 1):
            loss = loss_fn(functional_call(net, now, (episode.support_x[i],)), episode.support_y[i])
            grads = torch.autograd.grad(loss, list(now.values()), create_graph=True)
            now, state = step(now, dict(zip(now, grads, strict=True)), state, k)
        losses.append(loss_fn(functional_call(net, now, (episode.query_x[i],)), episode.query_y[i]))
    return torch.stack(losses).mean()


def sgd_step(lr: float) -> Callable[..., tuple[dict[str, Tensor], None]]:
    return lambda params, grads, state, k: ({n: p - lr * grads[n] for n, p in params.items()}, None)


def finite_differences(
    fn: Callable[[dict[str, Tensor]], float], params: Mapping[str, Tensor], eps: float = 1e-5
) -> dict[str, Tensor]:
    """Central differences of a scalar function of named float64 tensors."""
    at = {name: p.detach().clone() for name, p in params.items()}
    slopes = {name: torch.zeros_like(p) for name, p in at.items()}
    for name, p in at.items():
        flat = p.view(-1)
        for i in range(flat.numel()):
            value = float(flat[i])
            flat[i] = value + eps
            above = fn(at)
            flat[i] = value - eps
            below = fn(at)
            flat[i] = value
            slopes[name].view(-1)[i] = (above - below) / (2 * eps)
    return slopes


def own_loss(
    net: nn.Module,
    method: il.Method,
    episode: il.Episode,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    **options: Any,
) -> Callable[[Mapping[str, Tensor]], float]:
    """The library's own meta-objective, for finite differences of it. One engine, which records nothing, is for all."""
    engine = il.Engine(net, loss_fn, replay="off", **options)
    return lambda meta: float(engine.meta_gradient(method, episode, meta)[1].loss.mean())


def assert_same(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-9, atol: float = 1e-11
) -> None:
    """The same names, and the same values to rounding (or bit for bit with tolerances of 0)."""
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            actual[name].detach(),
            expected[name].detach(),
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that must not change, by value and by identity."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "ids": {name: id(t) for name, t in tensors.items()},
        "versions": {name: t._version for name, t in tensors.items()},
        "state": {name: t.clone() for name, t in module.state_dict().items()},
        "training": {name: m.training for name, m in module.named_modules()},
        "grads": {name: None if t.grad is None else t.grad.clone() for name, t in module.named_parameters()},
        "requires": {name: t.requires_grad for name, t in tensors.items()},
        "plain": {
            name: {key: copy.copy(value) for key, value in vars(m).items() if isinstance(value, int | float | str)}
            for name, m in module.named_modules()
        },
    }


def assert_untouched(module: nn.Module, before: dict[str, Any]) -> None:
    """The module is bit for bit as it was when the snapshot was taken."""
    after = snapshot(module)
    for part in ("values", "state", "grads"):
        assert after[part].keys() == before[part].keys(), part
        for name, old in before[part].items():
            new = after[part][name]
            assert (new is None) == (old is None), f"{part} of {name}"
            assert new is None or torch.equal(new, old), f"{part} of {name}"
    for part in ("ids", "versions", "training", "requires", "plain"):
        assert after[part] == before[part], part


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """Every tensor in nested dataclasses, mappings and sequences."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        return
    elif dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield from tensors_in(getattr(thing, field.name))
    elif isinstance(thing, Mapping):
        for item in thing.values():
            yield from tensors_in(item)
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from tensors_in(item)


def assert_no_graph(thing: Any) -> None:
    """It holds tensors, and none of them holds a graph."""
    found = list(tensors_in(thing))
    assert found, "no tensor was found"
    assert not [t for t in found if t.requires_grad or t.grad_fn is not None]


def assert_is(method: il.Method, other: il.Method, net: nn.Module | None = None) -> None:
    """The same meta-gradient in the model's parameters, adapted parameters and evaluation."""
    net, episode = net or smooth_net(), vector_episode()
    grads, info = il.meta_gradient(net, method, episode)
    expected, observed = il.meta_gradient(net, other, episode)
    own = {n: g for n, g in grads.items() if not n.startswith("method.")}
    assert_same(own, {n: g for n, g in expected.items() if not n.startswith("method.")})
    torch.testing.assert_close(info.loss, observed.loss)
    adapted = il.adapt(net, method, episode.support_x[0], episode.support_y[0])
    assert_same(adapted, il.adapt(net, other, episode.support_x[0], episode.support_y[0]))


def assert_exact(net: nn.Module, method: il.Method, episode: il.Episode, meta: dict[str, Tensor] | None = None) -> None:
    """The meta-gradient is that of finite differences, in what is learned too."""
    meta = meta_params_of(trainable(net), method) if meta is None else meta
    grads, _ = il.meta_gradient(net, method, episode, meta_params=meta)
    assert_same(grads, finite_differences(own_loss(net, method, episode), meta), rtol=1e-5, atol=1e-8)
