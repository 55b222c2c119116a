"""Kinds of layers, and what a module keeps where, told by public names of PyTorch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BATCH_NORMS", "NORMS", "has_hooks", "registered_parameters"]

Kinds = type[Any] | tuple[type[Any], ...]


def _common(*kinds: type[nn.Module]) -> Kinds:
    """The nearest class from which all of these are derived; they themselves where that is ``nn.Module``.

    PyTorch derives its batch norms from a private class, and other libraries derive theirs from it too.
    """
    nearest = next(base for base in kinds[0].__mro__ if all(issubclass(kind, base) for kind in kinds))
    return kinds if nearest is nn.Module else nearest


_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

BATCH_NORMS: Kinds = _common(*_BATCH)
"""What a batch norm is an instance of."""
NORMS: Kinds = _common(*_BATCH, *_INSTANCE)
"""What a layer that may store statistics is an instance of."""


def _example() -> nn.Module:
    module = nn.Module()
    module.parameter = nn.Parameter(torch.zeros(()))
    return module


_PARAMETERS = next(key for key, held in vars(_example()).items() if isinstance(held, dict) and "parameter" in held)
_HOOKS = [key for key in vars(nn.Module()) if key.endswith("_hooks") and "state_dict" not in key]


def registered_parameters(layer: nn.Module) -> dict[str, Tensor | None]:
    """The dictionary in which a layer keeps its own parameters, itself and not a copy.

    Example:
        >>> list(registered_parameters(nn.Linear(2, 3)))
        ['weight', 'bias']
    """
    found: dict[str, Tensor | None] = vars(layer)[_PARAMETERS]
    return found


def has_hooks(layer: nn.Module) -> bool:
    """Whether anything is called beside the forward pass of a layer.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> handle = layer.register_forward_hook(print)
        >>> has_hooks(layer)
        True
        >>> handle.remove()
        >>> has_hooks(layer)
        False
    """
    return any(vars(layer).get(key) for key in _HOOKS)
