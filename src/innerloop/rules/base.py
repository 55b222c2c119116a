"""What an inner-loop update rule is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from innerloop.params import Params

__all__ = ["InnerRule", "RuleState", "nothing_learned"]

RuleState = Any
"""What a rule carries from step to step: any nesting of dicts and tuples of tensors."""


def nothing_learned(params: Mapping[str, Tensor]) -> Params:
    """For rules that have no meta-learned quantities of their own."""
    return {}


class InnerRule(NamedTuple):
    """An inner-loop update rule: a pair of pure, differentiable functions over the named tensors of one task.

    The inner loop maps them over tasks, so a rule never sees the task axis.

    Attributes:
        init: ``(params, learned) -> state``. ``learned`` holds what the rule meta-learns; a rule that uses it
            carries it in its state.
        step: ``(params, grads, state) -> (params, state)``.
        learned: ``params -> learned``, the initial values of what the rule meta-learns, from the initial values of
            the parameters that are adapted. They become meta-parameters under the prefix ``method.``.

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
