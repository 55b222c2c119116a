"""Meta-learned settings: any rule with its momentum, decay and other settings learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor

from innerloop.params import Params
from innerloop.parts import Part
from innerloop.rules.base import Rule, RuleState

__all__ = ["LearnedSettings", "learned_settings"]

_SCALES = {"momentum": "logit", "betas": "logit", "alpha": "logit", "eps": "log"}
"""The scale on which a setting is learned: ``logit`` keeps it between 0 and 1, ``log`` keeps it positive. All other
settings are learned as they are."""


@dataclass(frozen=True, repr=False)
class LearnedSettings(Part):
    """The rule that :func:`learned_settings` makes.

    Args:
        make: the function that makes the wrapped rule from its settings.
        settings: the name and the initial value of each learned setting.
        fixed: the name and the value of each fixed setting.

    Raises:
        ValueError: no setting to learn, a setting that is neither a number nor a tuple of numbers, or an initial value
            outside the setting's range.
    """

    make: Callable[..., Rule]
    settings: tuple[tuple[str, float | tuple[float, ...]], ...]
    fixed: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.settings:
            parts = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
                raise ValueError(f"{name} is {value!r}; a number, or a tuple of numbers, can be learned")
        if not self._starts:
            raise ValueError("there is no setting to learn; give one, such as lr=0.01")

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns, and its settings."""
        plain = self.make(**dict(self.fixed), **dict(self.settings))
        some, inner, starts = next(iter(params.values())), plain.learned(params), self._starts
        if both := sorted(starts.keys() & inner.keys()):
            raise ValueError(f"the rule already learns {', '.join(both)}; learn it once")
        return {**inner, **{name: some.new_full((), value) for name, value in starts.items()}}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule, and its settings."""
        raw = {name: learned[name] for name in self._starts}
        return {"inner": self._made(raw).init(params, learned), "settings": raw}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule with the learned settings."""
        moved, inner = self._made(state["settings"]).step(params, grads, state["inner"])
        return moved, {"inner": inner, "settings": state["settings"]}

    @property
    def _starts(self) -> dict[str, float]:
        return dict(_starts(dict(self.settings)))

    def _made(self, raw: Mapping[str, Tensor]) -> Rule:
        """The wrapped rule, with its settings taken from the learned tensors."""
        settings = dict(self.settings)
        values: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for full, tensor in raw.items():
            name, *rest = full.split(".")
            value = tensor.sigmoid() if rest[-1:] == ["logit"] else tensor.exp() if rest[-1:] == ["log"] else tensor
            is_part = isinstance(settings[name], tuple)
            values[name] = (*values.get(name, ()), value) if is_part else value
        return self.make(**dict(self.fixed), **values)


def learned_settings(make: Callable[..., Rule], **settings: float | tuple[float, ...]) -> LearnedSettings:
    r"""Any rule, with some of its settings meta-learned. Each has one value for all parameters and steps.

    The settings named here are learned, from the values given here on. All others keep their defaults; fix another
    value with ``functools.partial(make, ...)``. True and False are fixed, too. The settings are meta-parameters under
    ``method.`` and their own names.

    A momentum, ``betas`` and ``alpha`` are learned as :math:`\log(x / (1-x))` and so stay between 0 and 1. Their names
    say so: ``method.momentum.logit``. ``eps`` is learned as its logarithm, ``method.eps.log``, and so stays positive.
    The others, such as ``lr`` and ``weight_decay``, are learned as they are and may become negative.

    Args:
        make: the function that makes the rule, such as :func:`innerloop.rules.adam`. A function of your own must accept
            tensors for these settings.
        settings: the settings to learn, with their initial values.

    Raises:
        ValueError: settings that ``make`` refuses, no setting to learn, or an initial value outside the setting's
            range; once the network is known, a name that the rule learns already.

    Example:
        >>> import torch
        >>> from innerloop.rules import adam
        >>> rule = learned_settings(adam, lr=0.01, betas=(0.5, 0.999))
        >>> {name: round(float(value), 2) for name, value in rule.learned({"w": torch.zeros(3)}).items()}
        {'lr': 0.01, 'betas.0.logit': 0.0, 'betas.1.logit': 6.91}

    References:
        Maclaurin, Duvenaud, Adams: Gradient-based Hyperparameter Optimization through Reversible Learning. ICML 2015.
    """
    make(**settings)  # so that settings that it refuses raise here
    known: dict[str, Any] = {}
    rule: Any = make
    if isinstance(make, partial) and is_dataclass(make.func):
        # Two partials are never equal and cannot be saved. So the settings that a partial fixes become a field.
        bound = signature(make.func).bind_partial(*make.args, **make.keywords).arguments
        known = {name: value for name, value in bound.items() if name not in settings}
        rule = make.func
    flags = {name: value for name, value in settings.items() if isinstance(value, bool)}
    learned = {name: value for name, value in settings.items() if name not in flags}
    return LearnedSettings(rule, tuple(learned.items()), tuple({**known, **flags}.items()))


def _starts(settings: Mapping[str, float | tuple[float, ...]]) -> list[tuple[str, float]]:
    """The name and the initial value of each learned number, on its scale."""
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
