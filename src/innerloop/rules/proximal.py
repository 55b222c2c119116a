"""Staying near the start."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.rules._checks import Setting, check_at_least
from innerloop.rules.base import InnerRule, RuleState

__all__ = ["proximal"]


def proximal(rule: InnerRule, strength: Setting) -> InnerRule:
    r"""Have a rule minimise the support loss with a pull back to where the inner loop started.

    .. math:: g \leftarrow g + \lambda (\theta_k - \theta_0)

    which is the gradient of :math:`L^{\mathrm{support}}(\theta) + \frac{\lambda}{2} \lVert\theta - \theta_0\rVert^2`.

    Args:
        rule: the rule that takes the step.
        strength: λ.

    Raises:
        ValueError: a negative strength.

    Example:
        >>> import torch
        >>> from innerloop.rules import sgd
        >>> rule, params = proximal(sgd(0.5), strength=1.0), {"w": torch.tensor(0.0)}
        >>> state = rule.init(params, {})
        >>> for _ in range(30):
        ...     params, state = rule.step(params, {"w": torch.tensor(-1.0)}, state)
        >>> params
        {'w': tensor(1.)}

    References:
        Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients. NeurIPS 2019, eq. 3.
    """
    check_at_least(0.0, strength=strength)

    def init(params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        return {"inner": rule.init(params, learned), "start": dict(params)}

    def step(params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState) -> tuple[Params, RuleState]:
        pulled = map_params(lambda g, p, start: g + strength * (p - start), grads, params, state["start"])
        moved, inner = rule.step(params, pulled, state["inner"])
        return moved, {"inner": inner, "start": state["start"]}

    return rule._replace(init=init, step=step)
