"""higher: a patched copy of the module for each task."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.bench.peers._base import MetaGradientFn, Spec, add_up, written_gradients
from innerloop.episode import Episode

__all__ = ["higher"]


def higher(net: nn.Module, spec: Spec) -> MetaGradientFn:
    """The loop of its ``examples/maml-omniglot.py``. First-order methods run without ``track_higher_grads``.

    Raises:
        ImportError: higher is not installed.
    """
    import higher

    optimizer = torch.optim.SGD(net.parameters(), lr=spec.inner_lr)

    def exact(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        for i in range(episode.tasks):
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (adapted, inner):
                for _ in range(spec.steps):
                    inner.step(F.cross_entropy(adapted(episode.support_x[i]), episode.support_y[i]))
                loss = F.cross_entropy(adapted(episode.query_x[i]), episode.query_y[i])
                (loss / episode.tasks).backward()
        return written_gradients(net)

    def first_order(episode: Episode) -> dict[str, Tensor]:
        sums: list[Tensor] = []
        for i in range(episode.tasks):
            with higher.innerloop_ctx(net, optimizer, track_higher_grads=False) as (adapted, inner):
                for _ in range(spec.steps):
                    inner.step(F.cross_entropy(adapted(episode.support_x[i]), episode.support_y[i]))
                if spec.what == "reptile":
                    moved = zip(net.parameters(), adapted.parameters(), strict=True)
                    add_up(sums, [start.detach() - end.detach() for start, end in moved], episode.tasks)
                else:
                    loss = F.cross_entropy(adapted(episode.query_x[i]), episode.query_y[i])
                    add_up(sums, torch.autograd.grad(loss, list(adapted.parameters())), episode.tasks)
        return dict(zip(dict(net.named_parameters()), sums, strict=True))

    return exact if spec.what == "maml" else first_order
