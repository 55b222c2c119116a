"""learn2learn: a clone of the module for each task."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.bench.peers._base import MetaGradientFn, Spec, add_up, written_gradients
from innerloop.episode import Episode

__all__ = ["learn2learn"]


def learn2learn(net: nn.Module, spec: Spec) -> MetaGradientFn:
    """A clone of the module and a backward pass for each task, as in its ``examples/vision/maml_omniglot.py``.

    The displacement of Reptile is that of its first-order clone.

    Raises:
        ImportError: learn2learn is not installed, or does not work with this PyTorch.
    """
    import learn2learn as l2l

    maml = l2l.algorithms.MAML(net, lr=spec.inner_lr, first_order=spec.what != "maml")

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        sums: list[Tensor] = []
        for i in range(episode.tasks):
            learner = maml.clone()
            for _ in range(spec.steps):
                learner.adapt(F.cross_entropy(learner(episode.support_x[i]), episode.support_y[i]))
            if spec.what == "reptile":
                moved = zip(net.parameters(), learner.parameters(), strict=True)
                add_up(sums, [start.detach() - end.detach() for start, end in moved], episode.tasks)
            else:
                loss = F.cross_entropy(learner(episode.query_x[i]), episode.query_y[i])
                (loss / episode.tasks).backward()
        return dict(zip(dict(net.named_parameters()), sums, strict=True)) if sums else written_gradients(net)

    return meta_gradient
