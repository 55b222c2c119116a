"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.rules._checks import Setting, check_at_least, check_below, is_off
from innerloop.rules._numeric import safe_sqrt
from innerloop.rules.base import InnerRule, RuleState

__all__ = ["rmsprop"]


def rmsprop(
    lr: Setting,
    *,
    alpha: Setting = 0.99,
    eps: Setting = 1e-8,
    weight_decay: Setting = 0.0,
    momentum: Setting = 0.0,
    centered: bool = False,
) -> InnerRule:
    r"""RMSprop (Hinton, 2012), differentiable, step for step equal to ``torch.optim.RMSprop``.

    .. math::
        v \leftarrow \rho v + (1-\rho) g^2,\quad
        b \leftarrow \mu b + \frac{g}{\sqrt{v} + \epsilon},\quad \theta \leftarrow \theta - \alpha b

    (centered, :math:`v - \bar g^2` under the root, with :math:`\bar g` the running mean of the gradient). Where v
    is zero, the derivative of its root is taken as zero, as in :func:`innerloop.rules.adam`.

    Args:
        lr: the inner learning rate α.
        alpha: ρ, the decay of the running means (the name is that of ``torch.optim``).
        eps: ε.
        weight_decay: an L2 penalty added to the gradient.
        momentum: μ.
        centered: whether the running variance takes the place of the running second moment.

    Raises:
        ValueError: a negative number, or a ρ or a momentum of 1 or more.

    Example:
        >>> rule, params = rmsprop(0.1, alpha=0.75), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.8000)}
    """
    check_at_least(0.0, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)
    check_below(1.0, alpha=alpha, momentum=momentum)

    def init(params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        zeros = map_params(torch.zeros_like, params)
        return {"v": zeros, "mean": zeros if centered else {}, "b": {} if is_off(momentum) else zeros}

    def step(params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState) -> tuple[Params, RuleState]:
        if not is_off(weight_decay):
            grads = map_params(lambda g, p: g + weight_decay * p, grads, params)
        v = map_params(lambda v, g: alpha * v + (1 - alpha) * (g * g), state["v"], grads)
        mean, spread = state["mean"], v
        if centered:
            mean = map_params(lambda m, g: alpha * m + (1 - alpha) * g, mean, grads)
            spread = map_params(lambda v, m: v - m * m, v, mean)
        moves = map_params(lambda g, s: g / (safe_sqrt(s) + eps), grads, spread)
        b = state["b"]
        if not is_off(momentum):
            b = moves = map_params(lambda b, m: momentum * b + m, b, moves)
        return map_params(lambda p, m: p - lr * m, params, moves), {"v": v, "mean": mean, "b": b}

    return InnerRule(init, step)
