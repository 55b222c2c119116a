"""A pull back to where the inner loop started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import Setting, check_at_least
from innerloop.rules.base import Rule, RuleState, check_rule

__all__ = ["Proximal", "proximal"]


@dataclass(frozen=True, repr=False)
class Proximal(Part):
    r"""Add a pull back to the start of the inner loop to the gradient that a rule sees.

    .. math:: g \leftarrow g + \lambda (\theta_k - \theta_0)

    The sum is the gradient of :math:`L^{\mathrm{support}}(\theta) + \frac{\lambda}{2} \lVert\theta - \theta_0\rVert^2`.

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

    rule: Rule
    strength: Setting

    def __post_init__(self) -> None:
        check_rule(self.rule)
        check_at_least(0.0, strength=self.strength)

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns."""
        return self.rule.learned(params)

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule, and the parameters at the start of the inner loop."""
        return {"inner": self.rule.init(params, learned), "start": dict(params)}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule along the gradient with the pull."""
        pulled = map_params(lambda g, p, start: g + self.strength * (p - start), grads, params, state["start"])
        moved, inner = self.rule.step(params, pulled, state["inner"])
        return moved, {"inner": inner, "start": state["start"]}


proximal = Proximal
"""The usual name of :class:`Proximal`."""
