"""TorchOpt: differentiable optimizers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop.bench.peers._base import MetaGradientFn, Spec, add_up, written_gradients
from innerloop.episode import Episode

__all__ = ["torchopt"]


def torchopt(net: nn.Module, spec: Spec) -> MetaGradientFn:
    """The module is reset after each task, and one backward pass serves all tasks.

    This is its ``examples/few-shot/maml_omniglot.py``. Its ``MetaSGD`` always builds the graph of second derivatives,
    so first-order methods use its functional SGD.

    Raises:
        ImportError: TorchOpt is not installed.
    """
    import torchopt

    if spec.what != "maml":
        return _first_order(net, spec)
    inner = torchopt.MetaSGD(net, lr=spec.inner_lr)

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        net_start = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        inner_start = torchopt.extract_state_dict(inner, by="reference")
        losses = []
        for i in range(episode.tasks):
            for _ in range(spec.steps):
                inner.step(F.cross_entropy(net(episode.support_x[i]), episode.support_y[i]))
            losses.append(F.cross_entropy(net(episode.query_x[i]), episode.query_y[i]))
            torchopt.recover_state_dict(net, net_start)
            torchopt.recover_state_dict(inner, inner_start)
        torch.stack(losses).mean().backward()
        return written_gradients(net)

    return meta_gradient


def _first_order(net: nn.Module, spec: Spec) -> MetaGradientFn:
    import torchopt

    optimizer = torchopt.sgd(lr=spec.inner_lr)

    def gradient(params: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
        loss = F.cross_entropy(functional_call(net, leaves, (x,)), y)
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        start = {name: parameter.detach() for name, parameter in net.named_parameters()}
        sums: list[Tensor] = []
        for i in range(episode.tasks):
            params, state = start, optimizer.init(start)
            for _ in range(spec.steps):
                grads = gradient(params, episode.support_x[i], episode.support_y[i])
                updates, state = optimizer.update(grads, state, inplace=False)
                params = torchopt.apply_updates(params, updates, inplace=False)
            if spec.what == "reptile":
                add_up(sums, [start[name] - params[name] for name in start], episode.tasks)
            else:
                grads = gradient(params, episode.query_x[i], episode.query_y[i])
                add_up(sums, grads.values(), episode.tasks)
        return dict(zip(start, sums, strict=True))

    return meta_gradient
