"""What an inner-loop update rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from innerloop.params import Params
from innerloop.parts import Part

__all__ = ["InnerRule", "Rule", "RuleState", "check_rule", "nothing_learned"]

RuleState = Any
"""What a rule carries from step to step: any nesting of dicts and tuples of tensors."""


@runtime_checkable
class Rule(Protocol):
    """An inner-loop update rule: pure, differentiable functions over the named tensors of one task.

    The inner loop maps them over tasks, so a rule never sees the task axis. The package's rules are frozen dataclasses
    with these three methods. A rule of your own may be any object that has them.
    """

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor], /) -> RuleState:
        """The state before the first step.

        Args:
            params: the parameters that are adapted, at the start of the inner loop.
            learned: what the rule meta-learns. A rule that uses it carries it in its state.
        """

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState, /
    ) -> tuple[Params, RuleState]:
        """The parameters and the state after a step along these gradients."""
        ...

    def learned(self, params: Mapping[str, Tensor], /) -> Params:
        """The initial values of what the rule meta-learns; no tensors if that is nothing.

        They become meta-parameters under the prefix ``method.``.

        Args:
            params: the initial values of the parameters that are adapted.
        """
        ...


def nothing_learned(params: Mapping[str, Tensor]) -> Params:
    """For rules that have no meta-learned quantities of their own."""
    return {}


@dataclass(frozen=True, repr=False)
class InnerRule(Part):
    """A :class:`Rule` made of plain functions.

    Args:
        init: ``(params, learned) -> state``, see :meth:`Rule.init`.
        step: ``(params, grads, state) -> (params, state)``, see :meth:`Rule.step`.
        learned: ``params -> learned``, see :meth:`Rule.learned`; nothing by default.

    Example:
        Gradient descent with one learned rate:

        >>> import torch
        >>> rule = InnerRule(
        ...     init=lambda params, learned: learned["lr"],
        ...     step=lambda params, grads, lr: ({n: p - lr * grads[n] for n, p in params.items()}, lr),
        ...     learned=lambda params: {"lr": torch.tensor(0.1)},
        ... )
        >>> params = {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(2.0)}, rule.init(params, rule.learned(params)))[0]
        {'w': tensor(0.8000)}
    """

    init: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], RuleState]
    step: Callable[[Mapping[str, Tensor], Mapping[str, Tensor], RuleState], tuple[Params, RuleState]]
    learned: Callable[[Mapping[str, Tensor]], Params] = nothing_learned


def check_rule(rule: object) -> None:
    """Raise ``ValueError`` for what is no rule, such as the class ``il.rules.sgd`` instead of ``il.rules.sgd(0.1)``."""
    if isinstance(rule, type) or not isinstance(rule, Rule):
        raise ValueError(f"the rule is {rule!r}; give an object with init, step and learned, such as il.rules.sgd(0.1)")
