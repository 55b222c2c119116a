"""What an inner-loop update rule is: the protocol ``Rule``, and ``InnerRule`` to make one of plain functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from innerloop.params import Params
from innerloop.parts import Part

__all__ = ["InnerRule", "Rule", "RuleState", "check_rule", "nothing_learned"]

RuleState = Any
"""The state that a rule carries from step to step: any nesting of dicts and tuples of tensors."""


@runtime_checkable
class Rule(Protocol):
    """An inner-loop update rule: three pure, differentiable functions of the named tensors of one task.

    The inner loop maps the functions over tasks, so a rule never sees the task axis. The package's rules are frozen
    dataclasses. A rule of your own may be any object with these three methods.
    """

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor], /) -> RuleState:
        """The state before the first step.

        Args:
            params: the adapted parameters, at the start of the inner loop.
            learned: the current values of what :meth:`learned` names. A rule that uses them in :meth:`step` puts them
                into its state.
        """

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState, /
    ) -> tuple[Params, RuleState]:
        """Take one step: the new parameters and the new state.

        Args:
            params: the adapted parameters.
            grads: the gradient of the support loss, under the same names.
            state: what :meth:`init` or the step before returned.
        """
        ...

    def learned(self, params: Mapping[str, Tensor], /) -> Params:
        """The initial values of what the rule meta-learns: an empty dict if that is nothing.

        They become meta-parameters under the prefix ``method.``.

        Args:
            params: the initial values of the adapted parameters.
        """
        ...


def nothing_learned(params: Mapping[str, Tensor]) -> Params:
    """The ``learned`` of a rule that meta-learns nothing: an empty dict."""
    return {}


@dataclass(frozen=True, repr=False)
class InnerRule(Part):
    """A :class:`Rule` made of plain functions.

    Args:
        init: ``(params, learned) -> state``, see :meth:`Rule.init`.
        step: ``(params, grads, state) -> (params, state)``, see :meth:`Rule.step`.
        learned: ``params -> learned``, see :meth:`Rule.learned`. By default the rule learns nothing.

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
    """Raise ``ValueError`` unless this is a rule. The class ``il.rules.sgd`` is none; ``il.rules.sgd(0.1)`` is."""
    if isinstance(rule, type) or not isinstance(rule, Rule):
        raise ValueError(f"the rule is {rule!r}; give an object with init, step and learned, such as il.rules.sgd(0.1)")
