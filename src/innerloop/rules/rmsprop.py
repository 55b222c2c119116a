"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import Setting, check_at_least, check_below, is_off
from innerloop.rules._numeric import safe_sqrt
from innerloop.rules.base import RuleState

__all__ = ["RMSprop", "rmsprop"]


@dataclass(frozen=True, repr=False)
class RMSprop(Part):
    r"""RMSprop (Hinton, 2012). It is differentiable, and takes the same steps as ``torch.optim.RMSprop``.

    .. math::
        v \leftarrow \rho v + (1-\rho) g^2,\quad
        b \leftarrow \mu b + \frac{g}{\sqrt{v} + \epsilon},\quad \theta \leftarrow \theta - \alpha b

    If ``centered``, the root is that of :math:`v - \bar g^2`, with :math:`\bar g` the running mean of the gradient.
    Where its argument is zero, the derivative of the root is taken as zero, as in :func:`innerloop.rules.adam`.

    Args:
        lr: the inner learning rate α.
        alpha: ρ, the decay of the running means. ``torch.optim`` has it under this name.
        eps: ε.
        weight_decay: an L2 penalty added to the gradient.
        momentum: μ.
        centered: whether to divide by the root of the running variance, not of the running second moment v.

    Raises:
        ValueError: a negative number, or a ρ or a momentum of 1 or more.

    Example:
        >>> rule, params = rmsprop(0.1, alpha=0.75), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.8000)}
    """

    lr: Setting
    _: KW_ONLY
    alpha: Setting = 0.99
    eps: Setting = 1e-8
    weight_decay: Setting = 0.0
    momentum: Setting = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        check_at_least(
            0.0, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay, momentum=self.momentum
        )
        check_below(1.0, alpha=self.alpha, momentum=self.momentum)

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """Nothing: its settings are fixed."""
        return {}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The running mean v; if centered, the running mean of the gradient; with momentum, the buffer b."""
        zeros = map_params(torch.zeros_like, params)
        return {"v": zeros, "mean": zeros if self.centered else {}, "b": {} if is_off(self.momentum) else zeros}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """One step of RMSprop."""
        if not is_off(self.weight_decay):
            grads = map_params(lambda g, p: g + self.weight_decay * p, grads, params)
        v = map_params(lambda v, g: self.alpha * v + (1 - self.alpha) * (g * g), state["v"], grads)
        mean, spread = state["mean"], v
        if self.centered:
            mean = map_params(lambda m, g: self.alpha * m + (1 - self.alpha) * g, mean, grads)
            spread = map_params(lambda v, m: v - m * m, v, mean)
        moves = map_params(lambda g, s: g / (safe_sqrt(s) + self.eps), grads, spread)
        b = state["b"]
        if not is_off(self.momentum):
            b = moves = map_params(lambda b, m: self.momentum * b + m, b, moves)
        return map_params(lambda p, m: p - self.lr * m, params, moves), {"v": v, "mean": mean, "b": b}


rmsprop = RMSprop
"""The usual name of :class:`RMSprop`."""
