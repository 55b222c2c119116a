"""Parameters that take a meta-learned value at each inner step and ignore the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._names import matches
from innerloop.rules._numeric import later
from innerloop.rules.base import Rule, RuleState, check_rule

__all__ = ["ByStep", "by_step"]


@dataclass(frozen=True, repr=False)
class ByStep(Part):
    r"""Give some parameters a meta-learned value for each inner step. Another rule moves all others.

    .. math:: \gamma_k = \gamma_0 + \delta_k, \qquad \delta_k = 0 \text{ at first}

    Here γ_0 is the initialisation, and :math:`\delta_1, \dots, \delta_K` are meta-learned, under ``method.offset``.
    Applied to batch norm's weights, this gives the per-step weights of MAML++. Steps beyond K keep the last value.

    Args:
        rule: the rule of all other parameters.
        names: shell-style name patterns of the parameters, separated by spaces. The inner loop must adapt them.
        steps: K.

    Raises:
        ValueError: a negative number of steps; once the network is known, patterns that match none of its parameters.

    Example:
        >>> from innerloop.rules import sgd
        >>> rule, params = by_step(sgd(0.5), "scale", steps=2), {"w": torch.zeros(1), "scale": torch.ones(1)}
        >>> rule.learned(params)
        {'offset.scale': tensor([[0.],
                [0.]])}
        >>> state = rule.init(params, {"offset.scale": torch.tensor([[1.0], [5.0]])})
        >>> rule.step(params, {"w": torch.ones(1), "scale": torch.ones(1)}, state)[0]
        {'w': tensor([-0.5000]), 'scale': tensor([2.])}

    References:
        Antoniou, Edwards, Storkey: How to train your MAML. ICLR 2019, section 4 (BNWB).
    """

    rule: Rule
    names: str
    steps: int

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 or more")

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the other rule learns, and an offset for each step."""
        mine, others = self._split(params)
        if not mine:
            raise ValueError(f"the patterns {self.names!r} match none of the parameters {', '.join(params)}")
        offsets = {f"offset.{n}": p.new_zeros(self.steps, *p.shape) for n, p in mine.items()} if self.steps else {}
        return {**(self.rule.learned(others) if others else {}), **offsets}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the other rule, and the offsets of the steps to come."""
        mine, others = self._split(params)
        rows = {
            n: [torch.zeros_like(p)[None]] + ([learned[f"offset.{n}"]] if self.steps else []) for n, p in mine.items()
        }
        offsets = {n: torch.cat(parts) for n, parts in rows.items()}
        return {"inner": self.rule.init(others, learned) if others else {}, "offsets": offsets}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """The named parameters take their next value. The other rule moves the rest."""
        mine, others = self._split(params)
        inner, offsets = state["inner"], state["offsets"]
        if others:
            others, inner = self.rule.step(others, {n: grads[n] for n in others}, inner)
        # The first row is the current offset. Each step drops it, except where it is the last one left.
        mine = {n: p if len(offsets[n]) == 1 else p + (offsets[n][1] - offsets[n][0]) for n, p in mine.items()}
        offsets = map_params(later, offsets)
        moved = {**mine, **others}
        return {n: moved[n] for n in params}, {"inner": inner, "offsets": offsets}

    def _split(self, params: Mapping[str, Tensor]) -> tuple[Params, Params]:
        """The parameters that have values for each step, and all others."""
        mine = {n: p for n, p in params.items() if matches(self.names, n)}
        return mine, {n: p for n, p in params.items() if n not in mine}


by_step = ByStep
"""The usual name of :class:`ByStep`."""
