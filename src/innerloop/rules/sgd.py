"""Gradient descent, with or without momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import Setting, check_at_least, check_below, is_off
from innerloop.rules._numeric import moved
from innerloop.rules.base import RuleState

__all__ = ["SGD", "sgd"]


@dataclass(frozen=True, repr=False)
class SGD(Part):
    r"""Gradient descent. It is differentiable, and takes the same steps as ``torch.optim.SGD``.

    .. math:: g \leftarrow g + \lambda\theta,\quad b \leftarrow \mu b + g,\quad \theta \leftarrow \theta - \alpha b

    With Nesterov momentum the last update is :math:`\theta \leftarrow \theta - \alpha(g + \mu b)`.

    Args:
        lr: the inner learning rate α.
        momentum: μ.
        nesterov: whether to use Nesterov momentum.
        weight_decay: λ, the L2 penalty added to the gradient.

    Raises:
        ValueError: a negative number, a momentum of 1 or more, or Nesterov without momentum.

    Example:
        >>> rule, params = sgd(0.5), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(1.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.5000)}
    """

    lr: Setting
    _: KW_ONLY
    momentum: Setting = 0.0
    nesterov: bool = False
    weight_decay: Setting = 0.0

    def __post_init__(self) -> None:
        check_at_least(0.0, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        check_below(1.0, momentum=self.momentum)
        if self.nesterov and is_off(self.momentum):
            raise ValueError("nesterov=True needs a momentum above 0")

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """Nothing: its settings are fixed."""
        return {}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """With momentum, a buffer of zeros for each parameter; without, no state."""
        # From a buffer of zeros the first step has b = g, as in torch.optim.SGD without dampening.
        return {} if is_off(self.momentum) else map_params(torch.zeros_like, params)

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """One step of gradient descent."""
        if not is_off(self.weight_decay):
            grads = map_params(lambda g, p: g + self.weight_decay * p, grads, params)
        if not is_off(self.momentum):
            state = map_params(lambda b, g: self.momentum * b + g, state, grads)
            grads = map_params(lambda g, b: g + self.momentum * b, grads, state) if self.nesterov else state
        return map_params(partial(moved, lr=self.lr), params, grads), state


sgd = SGD
"""The usual name of :class:`SGD`: ``il.rules.sgd(0.1)``."""
