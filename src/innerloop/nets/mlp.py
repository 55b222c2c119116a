"""A multi-layer perceptron."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import nn

__all__ = ["mlp"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(
    inputs: int = 1,
    outputs: int = 1,
    hidden: tuple[int, ...] = (40, 40),
    activation: Literal["relu", "tanh"] = "relu",
) -> nn.Module:
    """Linear layers with an activation between them. The default is the sinusoid network of MAML (section 5.1).

    Args:
        inputs: the number of features of an input.
        outputs: the number of features of an output.
        hidden: the width of each hidden layer.
        activation: ``relu`` or ``tanh``.

    Returns:
        A module from ``[N, inputs]`` to ``[N, outputs]``.

    Raises:
        ValueError: a width below 1, or another activation.

    Example:
        >>> import torch
        >>> mlp()(torch.zeros(10, 1)).shape
        torch.Size([10, 1])
    """
    widths = (inputs, *hidden, outputs)
    if min(widths) < 1:
        raise ValueError(f"the widths are {widths}; each must be 1 or more")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; choose one of {', '.join(_ACTIVATIONS)}")
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
