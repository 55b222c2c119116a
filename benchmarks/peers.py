"""The exact second-order MAML meta-gradient by each peer library, in the words of its own documentation.

A peer is a function ``(net, inner_lr, steps) -> (episode -> gradients)``. What a training loop builds once is
built in the outer call; the inner one does the work of one meta-batch and returns the mean over tasks of the
gradient of the query loss, by parameter name. It may write to ``net.grad``, never to the parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop import Episode

__all__ = ["PEERS", "MetaGradientFn", "Peer"]

MetaGradientFn = Callable[[Episode], dict[str, Tensor]]
Peer = Callable[[nn.Module, float, int], MetaGradientFn]


def higher(net: nn.Module, inner_lr: float, steps: int) -> MetaGradientFn:
    """A patched copy of the module for each task, and a backward pass for each: its ``examples/maml-omniglot.py``.

    Raises:
        ImportError: higher is not installed.
    """
    import higher

    optimizer = torch.optim.SGD(net.parameters(), lr=inner_lr)

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        for i in range(episode.tasks):
            with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False) as (adapted, inner):
                for _ in range(steps):
                    inner.step(F.cross_entropy(adapted(episode.support_x[i]), episode.support_y[i]))
                loss = F.cross_entropy(adapted(episode.query_x[i]), episode.query_y[i])
                (loss / episode.tasks).backward()
        return _written_gradients(net)

    return meta_gradient


def torchopt(net: nn.Module, inner_lr: float, steps: int) -> MetaGradientFn:
    """The module rewound after each task, one backward pass for all: its ``examples/few-shot/maml_omniglot.py``.

    Raises:
        ImportError: TorchOpt is not installed.
    """
    import torchopt

    inner = torchopt.MetaSGD(net, lr=inner_lr)

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        net_start = torchopt.extract_state_dict(net, by="reference", detach_buffers=True)
        inner_start = torchopt.extract_state_dict(inner, by="reference")
        losses = []
        for i in range(episode.tasks):
            for _ in range(steps):
                inner.step(F.cross_entropy(net(episode.support_x[i]), episode.support_y[i]))
            losses.append(F.cross_entropy(net(episode.query_x[i]), episode.query_y[i]))
            torchopt.recover_state_dict(net, net_start)
            torchopt.recover_state_dict(inner, inner_start)
        torch.stack(losses).mean().backward()
        return _written_gradients(net)

    return meta_gradient


def iteryne(net: nn.Module, inner_lr: float, steps: int) -> MetaGradientFn:
    """A learner for each task, and a backward pass for each: what its ``MetaTrainer`` does.

    Raises:
        ImportError: iteryne is not installed.
    """
    import iteryne

    maml = iteryne.MAML(net, inner_lr=inner_lr, inner_steps=steps, first_order=False)

    def meta_gradient(episode: Episode) -> dict[str, Tensor]:
        net.zero_grad()
        for i in range(episode.tasks):
            learner = maml.clone()
            learner.adapt_on(F.cross_entropy, episode.support_x[i], episode.support_y[i])
            loss = F.cross_entropy(learner(episode.query_x[i]), episode.query_y[i])
            (loss / episode.tasks).backward()
        return _written_gradients(net)

    return meta_gradient


PEERS: dict[str, Peer] = {"higher": higher, "torchopt": torchopt, "iteryne": iteryne}
"""Every peer by the name of its package."""


def _written_gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
