"""``Uphill``: the point at which a sharpness-aware inner step takes its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import check_at_least
from innerloop.rules._numeric import safe_sqrt

__all__ = ["GradientPoint", "Uphill"]

GradientPoint = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Params]
"""``(params, gradients there) -> params``: the point at which one task takes the gradient of an inner step.

It is a plain function of the adapted parameters of one task, or an instance of a class such as :class:`Uphill`."""


@dataclass(frozen=True, repr=False)
class Uphill(Part):
    r"""A point uphill: at a given distance from the iterate, in the direction of the gradient.

    .. math:: \theta + \alpha \frac{\nabla L(\theta)}{\lVert \nabla L(\theta) \rVert}

    To first order, the loss there is the highest at this distance. The norm is taken over all adapted parameters of the
    task together. If the gradient is zero, the point is θ itself.

    Args:
        radius: the distance α.

    Raises:
        ValueError: a negative radius.

    Example:
        >>> Uphill(0.5)({"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([3.0, -4.0])})
        {'w': tensor([1.3000, 0.6000])}

    References:
        Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for Efficiently Improving Generalization. ICLR
        2021, eq. 2.
    """

    radius: float

    def __post_init__(self) -> None:
        check_at_least(0.0, radius=self.radius)

    def __call__(self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> Params:
        """The point for one task."""
        norm = safe_sqrt(torch.stack([(g * g).sum() for g in grads.values()]).sum())
        scale = self.radius / (norm + TINY)
        return map_params(lambda p, g: p + g * scale.to(g.dtype), params, grads)


TINY = 1e-12
"""Added to the norm, so that a zero gradient is not divided by zero, as in the published code."""
