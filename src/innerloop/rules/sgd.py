"""Gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.rules._checks import Setting, check_at_least, check_below, is_off
from innerloop.rules._numeric import moved
from innerloop.rules.base import InnerRule, RuleState

__all__ = ["sgd"]


def sgd(lr: Setting, *, momentum: Setting = 0.0, nesterov: bool = False, weight_decay: Setting = 0.0) -> InnerRule:
    r"""Gradient descent, differentiable, step for step equal to ``torch.optim.SGD``.

    .. math:: g \leftarrow g + \lambda\theta,\quad b \leftarrow \mu b + g,\quad \theta \leftarrow \theta - \alpha b

    (with Nesterov momentum, :math:`\theta \leftarrow \theta - \alpha(g + \mu b)`).

    Args:
        lr: the inner learning rate α.
        momentum: μ.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: λ, the L2 penalty added to the gradient.

    Raises:
        ValueError: a negative number, a momentum of 1 or more, or Nesterov without momentum.

    Example:
        >>> rule, params = sgd(0.5), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(1.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.5000)}
    """
    check_at_least(0.0, lr=lr, momentum=momentum, weight_decay=weight_decay)
    check_below(1.0, momentum=momentum)
    if nesterov and is_off(momentum):
        raise ValueError("nesterov=True needs a momentum above 0")

    def init(params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        # A buffer of zeros makes the first step b = g, as torch.optim.SGD does without dampening.
        return {} if is_off(momentum) else map_params(torch.zeros_like, params)

    def step(params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState) -> tuple[Params, RuleState]:
        if not is_off(weight_decay):
            grads = map_params(lambda g, p: g + weight_decay * p, grads, params)
        if not is_off(momentum):
            state = map_params(lambda b, g: momentum * b + g, state, grads)
            grads = map_params(lambda g, b: g + momentum * b, grads, state) if nesterov else state
        return map_params(partial(moved, lr=lr), params, grads), state

    return InnerRule(init, step)
