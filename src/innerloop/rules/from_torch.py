"""Inner rules from ``torch.optim`` optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from innerloop.rules.adagrad import Adagrad
from innerloop.rules.adam import Adam, AdamW
from innerloop.rules.base import Rule
from innerloop.rules.rmsprop import RMSprop
from innerloop.rules.sgd import SGD

__all__ = ["from_torch"]

# For each optimizer: its rule, and the settings that both have under the same names.
_RULES: dict[type[Optimizer], tuple[Callable[..., Rule], tuple[str, ...]]] = {
    torch.optim.SGD: (SGD, ("momentum", "nesterov", "weight_decay")),
    torch.optim.Adam: (Adam, ("betas", "eps", "weight_decay")),
    torch.optim.AdamW: (AdamW, ("betas", "eps", "weight_decay")),
    torch.optim.RMSprop: (RMSprop, ("alpha", "eps", "weight_decay", "momentum", "centered")),
    torch.optim.Adagrad: (Adagrad, ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")),
}
# These settings do not change what an optimizer computes.
_IMMATERIAL = {"params", "param_names", "foreach", "fused", "capturable", "differentiable"}
# No rule has these settings. Each has the value at which it changes nothing.
_NEUTRAL = {"maximize": False, "amsgrad": False, "dampening": 0}


def from_torch(optimizer: Optimizer) -> Rule:
    """The inner rule with the settings of a ``torch.optim`` optimizer.

    Only the settings are read. The inner loop begins with fresh moments, and the optimizer is left as it is.

    Args:
        optimizer: an ``SGD``, ``Adam``, ``AdamW``, ``RMSprop`` or ``Adagrad``, with the same settings for all
            parameters.

    Raises:
        ValueError: another optimizer, parameter groups with different settings, or a setting that no rule has
            (``maximize``, ``amsgrad``, ``dampening``).

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> from_torch(torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9))
        SGD(lr=0.5, momentum=0.9)
    """
    kind = type(optimizer)
    if kind not in _RULES:
        known = ", ".join(known.__name__ for known in _RULES)
        raise ValueError(f"there is no inner rule for {kind.__name__}; use one of {known}, or write your own rule")
    groups = [{n: _plain(v) for n, v in g.items() if n not in _IMMATERIAL} for g in optimizer.param_groups]
    settings = groups[0]
    for group in groups[1:]:
        if differing := [f"{n} ({settings[n]} and {group[n]})" for n in settings if settings[n] != group[n]]:
            raise ValueError(
                f"the parameter groups differ in {', '.join(differing)}, and an inner rule treats all parameters "
                "alike; give them the same settings, or learn a rate for each layer with rules.learned_rates"
            )
    make, names = _RULES[kind]
    neutral = {**_NEUTRAL, "decoupled_weight_decay": kind is torch.optim.AdamW}
    for name, value in neutral.items():
        if settings.get(name, value) != value:
            raise ValueError(
                f"{kind.__name__} has {name}={settings[name]}, which no inner rule has; use {name}={value}"
            )
    return make(settings["lr"], **{name: settings[name] for name in names})


def _plain(value: Any) -> Any:
    """A setting as plain numbers. An optimizer may hold tensors, such as a learning rate for a captured graph."""
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, Tensor) else value
