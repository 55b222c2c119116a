"""Momentum, decay and the like, themselves meta-learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from innerloop.params import Params
from innerloop.rules.base import InnerRule, RuleState

__all__ = ["learned_settings"]

_SCALES = {"momentum": "logit", "betas": "logit", "alpha": "logit", "eps": "log"}
"""On which scale a setting is learned, so that it stays between 0 and 1, or positive; all others as they are."""


def learned_settings(make: Callable[..., InnerRule], **settings: float | tuple[float, ...]) -> InnerRule:
    r"""Any rule, with some of its settings meta-learned: one value of each for all parameters and steps.

    What is given here is learned, from these values on. What is not has its default, or what
    ``functools.partial(make, ...)`` fixes; True and False stay what they are. The settings are meta-parameters under
    ``method.``, by their names. A momentum, ``betas`` and ``alpha`` are learned as :math:`\log(x / (1-x))`, as the name
    ``method.momentum.logit`` says, and so stay between 0 and 1; ``eps`` as its logarithm, ``method.eps.log``, and so
    stays positive. The others, such as ``lr`` and ``weight_decay``, are learned as they are, and may become negative.

    Args:
        make: what makes the rule, such as :func:`innerloop.rules.adam`. A function of your own must bear tensors for
            these settings.
        settings: the settings to learn, with their initial values.

    Raises:
        ValueError: what ``make`` refuses, no setting to learn, one that begins outside the range in which it is
            learned, or, when the network is known, a name that the rule learns already.

    Example:
        >>> import torch
        >>> from innerloop.rules import adam
        >>> rule = learned_settings(adam, lr=0.01, betas=(0.5, 0.999))
        >>> {name: round(float(value), 2) for name, value in rule.learned({"w": torch.zeros(3)}).items()}
        {'lr': 0.01, 'betas.0.logit': 0.0, 'betas.1.logit': 6.91}

    References:
        Maclaurin, Duvenaud, Adams: Gradient-based Hyperparameter Optimization through Reversible Learning. ICML 2015.
    """
    plain = make(**settings)
    fixed = {name: value for name, value in settings.items() if isinstance(value, bool)}
    starts = dict(_starts({name: value for name, value in settings.items() if name not in fixed}))
    if not starts:
        raise ValueError("there is no setting to learn; give one, such as lr=0.01")

    def made(raw: Mapping[str, Tensor]) -> InnerRule:
        values: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for full, tensor in raw.items():
            name, *rest = full.split(".")
            value = tensor.sigmoid() if rest[-1:] == ["logit"] else tensor.exp() if rest[-1:] == ["log"] else tensor
            is_part = isinstance(settings[name], tuple)
            values[name] = (*values.get(name, ()), value) if is_part else value
        return make(**fixed, **values)

    def learned(params: Mapping[str, Tensor]) -> Params:
        some, inner = next(iter(params.values())), plain.learned(params)
        if both := sorted(starts.keys() & inner.keys()):
            raise ValueError(f"the rule already learns {', '.join(both)}; learn it once")
        return {**inner, **{name: some.new_full((), value) for name, value in starts.items()}}

    def init(params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        raw = {name: learned[name] for name in starts}
        return {"inner": made(raw).init(params, learned), "settings": raw}

    def step(params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState) -> tuple[Params, RuleState]:
        moved, inner = made(state["settings"]).step(params, grads, state["inner"])
        return moved, {"inner": inner, "settings": state["settings"]}

    return InnerRule(init, step, learned)


def _starts(settings: Mapping[str, float | tuple[float, ...]]) -> list[tuple[str, float]]:
    """The name and the initial value of each number that is learned, on its scale."""
    found: list[tuple[str, float]] = []
    for name, given in settings.items():
        parts = {f"{name}.{i}": part for i, part in enumerate(given)} if isinstance(given, tuple) else {name: given}
        scale = _SCALES.get(name)
        for part, value in parts.items():
            if scale and not 0 < value < (1 if scale == "logit" else math.inf):
                bounds = "above 0 and below 1" if scale == "logit" else "above 0"
                raise ValueError(f"{part} is {value}; it must begin {bounds} to be learned")
            if scale == "logit":
                found.append((f"{part}.logit", math.log(value / (1 - value))))
            else:
                found.append((f"{part}.log", math.log(value)) if scale else (part, value))
    return found
