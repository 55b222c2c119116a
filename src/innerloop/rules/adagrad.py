"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.rules._checks import Setting, check_at_least, is_off
from innerloop.rules._numeric import counter, safe_sqrt
from innerloop.rules.base import InnerRule, RuleState

__all__ = ["adagrad"]


def adagrad(
    lr: Setting,
    *,
    lr_decay: Setting = 0.0,
    weight_decay: Setting = 0.0,
    initial_accumulator_value: Setting = 0.0,
    eps: Setting = 1e-10,
) -> InnerRule:
    r"""Adagrad (Duchi et al., 2011), differentiable, step for step equal to ``torch.optim.Adagrad``.

    .. math::
        s \leftarrow s + g^2,\quad
        \theta \leftarrow \theta - \frac{\alpha}{1 + (t-1)\eta} \, \frac{g}{\sqrt{s} + \epsilon}

    Where s is zero, the derivative of its root is taken as zero, as in :func:`innerloop.rules.adam`.

    Args:
        lr: the inner learning rate α.
        lr_decay: η.
        weight_decay: an L2 penalty added to the gradient.
        initial_accumulator_value: what s begins with.
        eps: ε.

    Raises:
        ValueError: a negative number.

    Example:
        >>> rule, params = adagrad(0.1), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.9000)}
    """
    check_at_least(
        0.0,
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        initial_accumulator_value=initial_accumulator_value,
        eps=eps,
    )

    def init(params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        sums = map_params(lambda p: torch.zeros_like(p) + initial_accumulator_value, params)
        return {"count": counter(next(iter(params.values()))), "sum": sums}

    def step(params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState) -> tuple[Params, RuleState]:
        if not is_off(weight_decay):
            grads = map_params(lambda g, p: g + weight_decay * p, grads, params)
        count: Tensor = state["count"]
        rate = lr / (1 + count * lr_decay)
        sums = map_params(lambda s, g: s + g * g, state["sum"], grads)

        def update(p: Tensor, g: Tensor, s: Tensor) -> Tensor:
            return p - rate.to(p.dtype) * (g / (safe_sqrt(s) + eps))

        return map_params(update, params, grads, sums), {"count": count + 1, "sum": sums}

    return InnerRule(init, step)
