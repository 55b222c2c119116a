"""Losses. A ``LossFn`` scores the outputs of one task. An ``InnerLoss`` is what the inner loop minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.inner.model import StatelessModel
from innerloop.particles import MIXTURE
from innerloop.parts import Part

__all__ = ["LOSSES", "EachParticle", "InnerLoss", "LossFn", "OfOutputs", "each_particle", "of_outputs"]

LossFn = Callable[[Tensor, Tensor], Tensor]
"""``(outputs [N, ...], targets [N, ...]) -> scalar``: the mean loss over the examples of one task."""

LOSSES: dict[str, LossFn] = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss}
"""The losses that a recipe or a saved learner can name."""

InnerLoss = Callable[[StatelessModel, LossFn, Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""``(model, loss_fn, params, x [S, ...], y [S, ...]) -> scalar``: the support loss of one task at its parameters.

It is a plain function or an instance of a class below."""


@dataclass(frozen=True, repr=False)
class OfOutputs(Part):
    """The loss of the module's outputs. It is the same loss as for the query set."""

    def __call__(
        self, model: StatelessModel, loss_fn: LossFn, params: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        """The support loss of one task."""
        return loss_fn(model(params, x), y)


of_outputs = OfOutputs()
"""The inner loss of the module's outputs."""


@dataclass(frozen=True, repr=False)
class EachParticle(Part):
    """The mean of the particles' own losses. So each particle follows its own loss, not the loss of the mixture.

    This is for networks made by :func:`innerloop.nets.with_particles`. For others it is the same as :class:`OfOutputs`.
    """

    def __call__(
        self, model: StatelessModel, loss_fn: LossFn, params: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> Tensor:
        """The support loss of one task."""
        if not model.has_layer(MIXTURE):
            return of_outputs(model, loss_fn, params, x, y)
        each = model.inputs_of(MIXTURE, params, x)
        return torch.stack([loss_fn(outputs, y) for outputs in each.unbind(1)]).mean()


each_particle = EachParticle()
"""The inner loss that is the mean of the particles' losses."""
