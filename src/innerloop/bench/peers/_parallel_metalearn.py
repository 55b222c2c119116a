"""parallel-metalearn: all tasks at once by ``torch.func.vmap``, or one after another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from innerloop.bench.peers._base import MetaGradientFn, Spec, written_gradients
from innerloop.episode import Episode
from innerloop.inner.layers import BATCH_NORMS

__all__ = ["parallel_metalearn"]


class _Backbone(nn.Module):
    """The network, which ignores the keyword arguments that the library passes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, **unused: Any) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


class _Head(nn.Module):
    """A head that does nothing. The library needs a head apart from the backbone."""

    def forward(self, x: Tensor, **unused: Any) -> Tensor:
        return x


def parallel_metalearn(net: nn.Module, spec: Spec) -> MetaGradientFn:
    """Its ``MAML`` or ``Reptile``, put together as in its README, with the chunk size that it has by default.

    Its ``step`` takes a meta-batch and ends with an outer step. The outer learning rate is zero here, so the parameters
    stay the same and the meta-gradient is left in their ``grad``. The network is the backbone, and the head does
    nothing.

    Its default backend, ``vmap``, gives wrong second derivatives for networks with batch norm, because PyTorch's own
    rule for batching them is wrong. The error is a quarter of a percent of the largest entry for the networks here, and
    far more for others. So the exact meta-gradient of such a network uses its ``sequential`` backend.

    Raises:
        ImportError: parallel-metalearn is not installed.
    """
    from metalearn.algorithms import MAML, Reptile
    from metalearn.inner_optimizers import InnerSGD
    from metalearn.loss import CategoricalAccuracy, CrossEntropy
    from metalearn.model_wrappers import MAML_Model

    parameter = next(net.parameters())
    model = MAML_Model(backbone=_Backbone(net), head=_Head())
    inner = InnerSGD(
        model.get_fast_weights(), first_order=spec.what != "maml", inner_lr=spec.inner_lr, learn_lr=False
    ).to(parameter.dtype)
    for rate in inner.parameters():  # the library rounds it to float32
        rate.data.fill_(spec.inner_lr)
    has_batch_norm = any(isinstance(module, BATCH_NORMS) for module in net.modules())
    learner = (Reptile if spec.what == "reptile" else MAML)(
        model=model,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.0),
        inner_optimizer=inner,
        support_loss_fn=CrossEntropy(metric_fn=CategoricalAccuracy()),
        inner_steps=spec.steps,
        device=parameter.device,
        backend="sequential" if spec.what == "maml" and has_batch_norm else "vmap",
    )

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        support, query = {"labels": episode.support_y}, {"labels": episode.query_y}
        learner.step(iter([(episode.support_x, support, episode.query_x, query)]), training=True)
        return written_gradients(net)

    return meta_gradient
