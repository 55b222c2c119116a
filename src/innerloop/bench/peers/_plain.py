"""Plain PyTorch: the loop that one would write without a library."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from innerloop.bench.peers._base import MetaGradientFn, Spec, add_up, written_gradients
from innerloop.episode import Episode

__all__ = ["plain_pytorch"]


def plain_pytorch(net: nn.Module, spec: Spec) -> MetaGradientFn:
    """One task after another. First-order methods use a copy of the network and ``torch.optim.SGD``."""

    def exact(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        for i in range(episode.tasks):
            params: dict[str, Tensor] = dict(net.named_parameters())
            for _ in range(spec.steps):
                loss = F.cross_entropy(functional_call(net, params, (episode.support_x[i],)), episode.support_y[i])
                grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
                params = {n: p - spec.inner_lr * g for (n, p), g in zip(params.items(), grads, strict=True)}
            loss = F.cross_entropy(functional_call(net, params, (episode.query_x[i],)), episode.query_y[i])
            (loss / episode.tasks).backward()
        return written_gradients(net)

    if spec.what == "maml":
        return exact
    adapted = copy.deepcopy(net)
    optimizer = torch.optim.SGD(adapted.parameters(), lr=spec.inner_lr)

    def first_order(episode: Episode) -> dict[str, Tensor]:
        sums: list[Tensor] = []
        for i in range(episode.tasks):
            with torch.no_grad():
                for start, parameter in zip(net.parameters(), adapted.parameters(), strict=True):
                    parameter.copy_(start)
            for _ in range(spec.steps):
                optimizer.zero_grad()
                F.cross_entropy(adapted(episode.support_x[i]), episode.support_y[i]).backward()
                optimizer.step()
            if spec.what == "reptile":
                moved = zip(net.parameters(), adapted.parameters(), strict=True)
                add_up(sums, [start.detach() - end.detach() for start, end in moved], episode.tasks)
            else:
                loss = F.cross_entropy(adapted(episode.query_x[i]), episode.query_y[i])
                add_up(sums, torch.autograd.grad(loss, list(adapted.parameters())), episode.tasks)
        return dict(zip(dict(net.named_parameters()), sums, strict=True))

    return first_order
