"""Kinds of layers, and where a module keeps its parameters and hooks. Only public names of PyTorch are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["BATCH_NORMS", "NORMS", "has_hooks", "registered_parameters"]

Kinds = type[Any] | tuple[type[Any], ...]


def _common(*kinds: type[nn.Module]) -> Kinds:
    """The nearest common base class of these classes, or the classes themselves if that base is ``nn.Module``.

    PyTorch's batch norms have a private base class. Batch norms of other libraries derive from it too.
    """
    nearest = next(base for base in kinds[0].__mro__ if all(issubclass(kind, base) for kind in kinds))
    return kinds if nearest is nn.Module else nearest


_BATCH = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

BATCH_NORMS: Kinds = _common(*_BATCH)
"""Every batch norm is an instance of this class, or of one of these classes."""
NORMS: Kinds = _common(*_BATCH, *_INSTANCE)
"""Every layer that may store statistics is an instance of this class, or of one of these classes."""


def _example() -> nn.Module:
    module = nn.Module()
    module.parameter = nn.Parameter(torch.zeros(()))
    return module


_PARAMETERS = next(key for key, held in vars(_example()).items() if isinstance(held, dict) and "parameter" in held)
_HOOKS = [key for key in vars(nn.Module()) if key.endswith("_hooks") and "state_dict" not in key]


def registered_parameters(layer: nn.Module) -> dict[str, Tensor | None]:
    """The dictionary in which a layer keeps its own parameters. It is that dictionary itself, not a copy.

    Example:
        >>> list(registered_parameters(nn.Linear(2, 3)))
        ['weight', 'bias']
    """
    found: dict[str, Tensor | None] = vars(layer).get(_PARAMETERS, {})  # a scripted layer has none in Python
    return found


def has_hooks(layer: nn.Module) -> bool:
    """Whether a layer has hooks, which are called beside its forward pass.

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
