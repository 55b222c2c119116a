"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import Setting, check_at_least, is_off
from innerloop.rules._numeric import counter, safe_sqrt
from innerloop.rules.base import RuleState

__all__ = ["Adagrad", "adagrad"]


@dataclass(frozen=True, repr=False)
class Adagrad(Part):
    r"""Adagrad (Duchi et al., 2011). It is differentiable, and takes the same steps as ``torch.optim.Adagrad``.

    .. math::
        s \leftarrow s + g^2,\quad
        \theta \leftarrow \theta - \frac{\alpha}{1 + (t-1)\eta} \, \frac{g}{\sqrt{s} + \epsilon}

    Where s is zero, the derivative of its square root is taken as zero, as in :func:`innerloop.rules.adam`.

    Args:
        lr: the inner learning rate α.
        lr_decay: η.
        weight_decay: an L2 penalty added to the gradient.
        initial_accumulator_value: the initial value of s.
        eps: ε.

    Raises:
        ValueError: a negative number.

    Example:
        >>> rule, params = adagrad(0.1), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.9000)}
    """

    lr: Setting
    _: KW_ONLY
    lr_decay: Setting = 0.0
    weight_decay: Setting = 0.0
    initial_accumulator_value: Setting = 0.0
    eps: Setting = 1e-10

    def __post_init__(self) -> None:
        check_at_least(
            0.0,
            lr=self.lr,
            lr_decay=self.lr_decay,
            weight_decay=self.weight_decay,
            initial_accumulator_value=self.initial_accumulator_value,
            eps=self.eps,
        )

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """Nothing: its settings are fixed."""
        return {}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The count of steps, and the sum of squares s."""
        sums = map_params(lambda p: torch.zeros_like(p) + self.initial_accumulator_value, params)
        return {"count": counter(next(iter(params.values()))), "sum": sums}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """One step of Adagrad."""
        if not is_off(self.weight_decay):
            grads = map_params(lambda g, p: g + self.weight_decay * p, grads, params)
        count: Tensor = state["count"]
        rate = self.lr / (1 + count * self.lr_decay)
        sums = map_params(lambda s, g: s + g * g, state["sum"], grads)

        def update(p: Tensor, g: Tensor, s: Tensor) -> Tensor:
            return p - rate.to(p.dtype) * (g / (safe_sqrt(s) + self.eps))

        return map_params(update, params, grads, sums), {"count": count + 1, "sum": sums}


adagrad = Adagrad
"""The usual name of :class:`Adagrad`."""
