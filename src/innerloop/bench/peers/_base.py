"""What a contender has to compute, and the error that it raises if it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from innerloop.episode import Episode

__all__ = ["MetaGradientFn", "Peer", "Spec", "Unavailable", "What", "add_up", "written_gradients"]

What: TypeAlias = Literal["maml", "fomaml", "reptile"]
"""The exact second-order meta-gradient, its first-order form, or minus Reptile's displacement."""


@dataclass(frozen=True)
class Spec:
    """The computation: ``what``, with ``steps`` of gradient descent at rate ``inner_lr`` on the whole support set."""

    what: What
    inner_lr: float
    steps: int


MetaGradientFn: TypeAlias = Callable[[Episode], dict[str, Tensor]]
"""Computes one meta-batch: the mean over tasks of the meta-gradient, by parameter name."""

Peer: TypeAlias = Callable[[nn.Module, Spec], MetaGradientFn]
"""Builds what a training loop builds once. It may write gradients into the network, but must not change its parameters
for good."""


class Unavailable(Exception):  # noqa: N818 (a contender that is left out is no error)
    """The library cannot compute what is asked."""


def written_gradients(net: nn.Module) -> dict[str, Tensor]:
    """The gradients that backward passes left in the parameters of ``net``."""
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def add_up(sums: list[Tensor], grads: Iterable[Tensor], tasks: int) -> None:
    """Add one task's share of the mean over ``tasks``. ``sums`` is empty before the first task."""
    with torch.no_grad():
        if not sums:
            sums.extend(grad / tasks for grad in grads)
        else:
            for total, grad in zip(sums, grads, strict=True):
                total.add_(grad, alpha=1 / tasks)
