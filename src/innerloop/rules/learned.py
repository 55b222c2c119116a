"""Meta-learned learning rates, for gradient descent and for any other rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import check_at_least
from innerloop.rules._numeric import later
from innerloop.rules.base import Rule, RuleState, check_rule
from innerloop.rules.sgd import sgd

__all__ = ["LearnedRates", "Per", "learned_rates", "learned_sgd"]

Per = Literal["scalar", "layer", "layer_and_step", "weight"]
"""How many rates are learned: one in all, one for each named tensor, one for each named tensor and inner step, or one
for each single weight."""


@dataclass(frozen=True, repr=False)
class LearnedRates(Part):
    r"""Any rule, with its learning rate meta-learned.

    .. math:: \theta \leftarrow \theta + \alpha \odot (\mathrm{rule}(\theta) - \theta)

    Give the rule a rate of 1, and α is the learning rate itself. A learned rate may become negative. The rates are
    meta-parameters under ``method.lr``.

    Args:
        rule: the rule, with ``lr=1``.
        lr: the initial value of every rate α.
        per: ``scalar``: one rate for all. ``layer``: one for each named tensor, so that a layer's weight and bias have
            one each. ``layer_and_step``: one for each named tensor and inner step. ``weight``: one for each single
            weight.
        steps: with ``layer_and_step``, the number of steps that have a rate of their own. Further steps reuse the last.
        bounds: the lowest and the highest rate that is used. A learned rate beyond a bound is used as the bound, and
            gets a gradient of zero. None means no bounds.

    Raises:
        ValueError: a negative initial rate, or one outside the bounds, an unknown ``per``, or ``steps``
            missing with ``layer_and_step`` or given without it; once the network is known, a rule that learns these
            rates already.

    Example:
        >>> rule, params = learned_rates(sgd(1.0, momentum=0.9), 0.5, per="scalar"), {"w": torch.tensor(1.0)}
        >>> rule.learned(params)
        {'lr': tensor(0.5000)}
        >>> rule.step(params, {"w": torch.tensor(1.0)}, rule.init(params, rule.learned(params)))[0]
        {'w': tensor(0.5000)}

    References:
        Li, Zhou, Chen, Li: Meta-SGD. 2017, eq. 3 (per weight). Antoniou, Edwards, Storkey: How to train your MAML.
        ICLR 2019, section 4 (per layer and step).
    """

    rule: Rule
    lr: float
    _: KW_ONLY
    per: Per = "layer"
    steps: int | None = None
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_rule(self.rule)
        check_at_least(0.0, lr=self.lr)
        if self.bounds is not None and not -math.inf < self.bounds[0] <= self.lr <= self.bounds[1] < math.inf:
            raise ValueError(f"lr is {self.lr} and the bounds are {self.bounds}; it must lie between two finite bounds")
        if self.per not in get_args(Per):
            raise ValueError(f"per is {self.per!r}; choose one of {', '.join(map(repr, get_args(Per)))}")
        if (self.steps is None) is (self.per == "layer_and_step") or (self.steps is not None and self.steps < 0):
            raise ValueError(
                f"steps is {self.steps} and per is {self.per!r}; give the number of inner steps with "
                "per='layer_and_step', and only with it"
            )

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns, and the rates."""
        if self.per == "scalar":
            rates = {"lr": next(iter(params.values())).new_full((), self.lr)}
        elif self.per == "weight":
            rates = {f"lr.{name}": torch.full_like(p, self.lr, requires_grad=False) for name, p in params.items()}
        elif self.per == "layer":
            rates = {f"lr.{name}": p.new_full((), self.lr) for name, p in params.items()}
        else:
            rates = {f"lr.{name}": p.new_full((self.steps or 0,), self.lr) for name, p in params.items() if self.steps}
        inner = self.rule.learned(params)
        if both := sorted(rates.keys() & inner.keys()):
            raise ValueError(f"the rule already learns {', '.join(both)}; use learned_rates once")
        return {**inner, **rates}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule, and the rates of the steps to come."""
        one = learned.get("lr")
        # With zero steps there are no rates for each step, and none are needed.
        rates = {name: learned[f"lr.{name}"] if one is None else one for name in params} if learned else {}
        return {"inner": self.rule.init(params, learned), "lr": rates}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule, multiplied by the learned rates."""
        target, inner = self.rule.step(params, grads, state["inner"])
        rates = state["lr"]
        now = rates
        if self.per == "layer_and_step":
            now = map_params(lambda r: r[0], rates)
            # The state keeps the rates of the steps to come.
            rates = map_params(later, rates)
        if self.bounds is not None:
            low, high = self.bounds
            now = map_params(lambda r: r.clamp(low, high), now)
        moved = map_params(lambda p, t, r: p + r * (t - p), params, target, now)
        return moved, {"inner": inner, "lr": rates}


learned_rates = LearnedRates
"""The usual name of :class:`LearnedRates`."""


def learned_sgd(
    lr: float,
    *,
    per: Per = "layer",
    steps: int | None = None,
    bounds: tuple[float, float] | None = None,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> LearnedRates:
    r"""Gradient descent whose learning rate is meta-learned.

    .. math:: \theta \leftarrow \theta - \alpha \odot \nabla L(\theta)

    Args:
        lr: the initial value of every rate α.
        per: how many rates are learned, as for :func:`learned_rates`.
        steps: as for :func:`learned_rates`.
        bounds: as for :func:`learned_rates`.
        momentum: as for :func:`innerloop.rules.sgd`.
        nesterov: as for :func:`innerloop.rules.sgd`.
        weight_decay: as for :func:`innerloop.rules.sgd`.

    Raises:
        ValueError: as for :func:`learned_rates` and :func:`innerloop.rules.sgd`.

    Example:
        >>> rule = learned_sgd(0.1, per="layer_and_step", steps=3)
        >>> rule.learned({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})["lr.bias"]
        tensor([0.1000, 0.1000, 0.1000])
    """
    plain = sgd(1.0, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    return learned_rates(plain, lr, per=per, steps=steps, bounds=bounds)
