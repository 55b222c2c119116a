"""Momentum, decay and the like, themselves meta-learned."""

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
"""On which scale a setting is learned, so that it stays between 0 and 1, or positive; all others as they are."""


@dataclass(frozen=True, repr=False)
class LearnedSettings(Part):
    """The rule that :func:`learned_settings` makes.

    Args:
        make: what makes the rule inside from its settings.
        settings: the name and the initial value of each setting that is learned.
        fixed: the name and the value of each other setting that is given.

    Raises:
        ValueError: no setting to learn, one that is no number or pair of numbers, or one that begins outside the range
            in which it is learned.
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
        """What the rule inside learns, and its settings."""
        plain = self.make(**dict(self.fixed), **dict(self.settings))
        some, inner, starts = next(iter(params.values())), plain.learned(params), self._starts
        if both := sorted(starts.keys() & inner.keys()):
            raise ValueError(f"the rule already learns {', '.join(both)}; learn it once")
        return {**inner, **{name: some.new_full((), value) for name, value in starts.items()}}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the rule inside, and its settings."""
        raw = {name: learned[name] for name in self._starts}
        return {"inner": self._made(raw).init(params, learned), "settings": raw}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the rule inside with the learned settings."""
        moved, inner = self._made(state["settings"]).step(params, grads, state["inner"])
        return moved, {"inner": inner, "settings": state["settings"]}

    @property
    def _starts(self) -> dict[str, float]:
        return dict(_starts(dict(self.settings)))

    def _made(self, raw: Mapping[str, Tensor]) -> Rule:
        """The rule inside, with the settings that the learned tensors stand for."""
        settings = dict(self.settings)
        values: dict[str, Tensor | tuple[Tensor, ...]] = {}
        for full, tensor in raw.items():
            name, *rest = full.split(".")
            value = tensor.sigmoid() if rest[-1:] == ["logit"] else tensor.exp() if rest[-1:] == ["log"] else tensor
            is_part = isinstance(settings[name], tuple)
            values[name] = (*values.get(name, ()), value) if is_part else value
        return self.make(**dict(self.fixed), **values)


def learned_settings(make: Callable[..., Rule], **settings: float | tuple[float, ...]) -> LearnedSettings:
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
    make(**settings)  # refuses what it refuses, before anything is learned
    known: dict[str, Any] = {}
    rule: Any = make
    if isinstance(make, partial) and is_dataclass(make.func):
        # What a partial fixes becomes a field, since two partials are never equal and cannot be written down.
        bound = signature(make.func).bind_partial(*make.args, **make.keywords).arguments
        known = {name: value for name, value in bound.items() if name not in settings}
        rule = make.func
    flags = {name: value for name, value in settings.items() if isinstance(value, bool)}
    learned = {name: value for name, value in settings.items() if name not in flags}
    return LearnedSettings(rule, tuple(learned.items()), tuple({**known, **flags}.items()))


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
