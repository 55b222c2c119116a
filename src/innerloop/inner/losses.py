"""What the inner loop minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from innerloop.inner.model import StatelessModel
from innerloop.inner.objectives import LossFn
from innerloop.particles import MIXTURE

__all__ = ["InnerLoss", "each_particle", "of_outputs"]

InnerLoss = Callable[[StatelessModel, LossFn, Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""``(model, loss_fn, params, x [S, ...], y [S, ...]) -> scalar``: the support loss of one task at its parameters."""


def of_outputs(model: StatelessModel, loss_fn: LossFn, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The loss of the module's outputs, as for the query set."""
    return loss_fn(model(params, x), y)


def each_particle(model: StatelessModel, loss_fn: LossFn, params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The mean of the particles' losses, which gives each a gradient of its own, and not that of their mixture.

    For networks made by :func:`innerloop.nets.with_particles`; for others as :func:`of_outputs`.
    """
    if not model.has_layer(MIXTURE):
        return of_outputs(model, loss_fn, params, x, y)
    each = model.inputs_of(MIXTURE, params, x)
    return torch.stack([loss_fn(outputs, y) for outputs in each.unbind(1)]).mean()
