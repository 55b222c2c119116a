"""Rules that wrap another rule: one clips its gradients, one schedules its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._numeric import counter, safe_sqrt
from innerloop.rules.base import Rule, RuleState, check_rule

__all__ = ["Clipped", "Scheduled", "clipped", "scheduled"]


@dataclass(frozen=True, repr=False)
class Clipped(Part):
    r"""Clip the gradient before a rule sees it. Clipping is differentiable.

    .. math:: g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert + 10^{-6}}\right)
              \qquad\text{or}\qquad g \leftarrow \max(-c, \min(g, c))

    The two forms are those of ``torch.nn.utils.clip_grad_norm_`` and ``clip_grad_value_``. The norm is taken over all
    adapted parameters of one task together.

    Args:
        rule: the rule that takes the step.
        max_norm: c of the first form.
        max_value: c of the second form.

    Raises:
        ValueError: both bounds are given, or neither, or the bound is not positive.

    Example:
        >>> from innerloop.rules import sgd
        >>> rule, params = clipped(sgd(1.0), max_value=0.25), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.7500)}
    """

    rule: Rule
    _: KW_ONLY
    max_norm: float | None = None
    max_value: float | None = None

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if (self.max_norm is None) is (self.max_value is None) or not self._bound > 0:
            raise ValueError(
                f"max_norm is {self.max_norm} and max_value is {self.max_value}; give one of them, a positive number"
            )

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns."""
        return self.rule.learned(params)

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule."""
        return self.rule.init(params, learned)

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule along the clipped gradient."""
        return self.rule.step(params, self._clipped(grads), state)

    @property
    def _bound(self) -> float:
        """The one bound that is given."""
        bounds = [bound for bound in (self.max_norm, self.max_value) if bound is not None]
        return bounds[0]

    def _clipped(self, grads: Mapping[str, Tensor]) -> Params:
        if self.max_norm is None:
            bound = self._bound
            return map_params(lambda g: g.clamp(-bound, bound), grads)
        norm = safe_sqrt(torch.stack([(g * g).sum() for g in grads.values()]).sum())
        factor = (self._bound / (norm + 1e-6)).clamp(max=1.0)
        return map_params(lambda g: g * factor.to(g.dtype), grads)


clipped = Clipped
"""The usual name of :class:`Clipped`."""


@dataclass(frozen=True, repr=False)
class Scheduled(Part):
    r"""Multiply a rule's steps by a function of the inner step: a schedule of its learning rate.

    .. math:: \theta_{k+1} = \theta_k + f(k) \, (\mathrm{rule}(\theta_k) - \theta_k)

    Args:
        rule: the rule that takes the step.
        factor: f. It takes k, counted from 0, as a scalar tensor. It returns a number or a scalar tensor.

    Example:
        >>> from innerloop.rules import sgd
        >>> rule, params = scheduled(sgd(1.0), lambda k: 0.5**k), {"w": torch.tensor(0.0)}
        >>> state = rule.init(params, {})
        >>> for _ in range(3):
        ...     params, state = rule.step(params, {"w": torch.tensor(-1.0)}, state)
        >>> params
        {'w': tensor(1.7500)}
    """

    rule: Rule
    factor: Callable[[Tensor], Tensor | float]

    def __post_init__(self) -> None:
        check_rule(self.rule)

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns."""
        return self.rule.learned(params)

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule, and the count of steps."""
        return {"inner": self.rule.init(params, learned), "count": counter(next(iter(params.values())))}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule, multiplied by the factor."""
        target, inner = self.rule.step(params, grads, state["inner"])
        f = torch.as_tensor(self.factor(state["count"]), device=state["count"].device)
        moved = map_params(lambda p, t: p + f.to(p.dtype) * (t - p), params, target)
        return moved, {"inner": inner, "count": state["count"] + 1}


scheduled = Scheduled
"""The usual name of :class:`Scheduled`."""
