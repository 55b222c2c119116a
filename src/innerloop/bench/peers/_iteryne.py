"""iteryne: a learner for each task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.bench.peers._base import MetaGradientFn, Spec, add_up, written_gradients
from innerloop.episode import Episode

__all__ = ["iteryne"]


def iteryne(net: nn.Module, spec: Spec) -> MetaGradientFn:
    """A learner and a backward pass for each task, as in its ``MetaTrainer``.

    It has no Reptile. The displacement is that of its first-order learner.

    Raises:
        ImportError: iteryne is not installed.
    """
    import iteryne

    maml = iteryne.MAML(net, inner_lr=spec.inner_lr, inner_steps=spec.steps, first_order=spec.what != "maml")

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        for i in range(episode.tasks):
            learner = maml.clone()
            learner.adapt_on(F.cross_entropy, episode.support_x[i], episode.support_y[i])
            loss = F.cross_entropy(learner(episode.query_x[i]), episode.query_y[i])
            (loss / episode.tasks).backward()
        return written_gradients(net)

    def displacement(episode: Episode) -> dict[str, Tensor]:
        start = {name: parameter.detach() for name, parameter in net.named_parameters()}
        sums: list[Tensor] = []
        for i in range(episode.tasks):
            learner = maml.clone()
            learner.adapt_on(F.cross_entropy, episode.support_x[i], episode.support_y[i])
            add_up(sums, [start[name] - learner.params[name].detach() for name in start], episode.tasks)
        return dict(zip(start, sums, strict=True))

    return displacement if spec.what == "reptile" else meta_gradient
