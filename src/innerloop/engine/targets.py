"""Protects the caller's targets from losses that write to them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from innerloop.inner.losses import LossFn

__all__ = ["with_own_targets"]

TRUSTED = ("torch.nn.functional", "torch.nn.modules.")
"""The modules whose losses never write to their arguments."""


def with_own_targets(loss_fn: LossFn) -> LossFn:
    """The loss itself if it is PyTorch's. A loss of the user's gets a copy of the targets in each call.

    Example:
        >>> import torch.nn.functional as F
        >>> with_own_targets(F.mse_loss) is F.mse_loss
        True
    """
    of = type(loss_fn) if isinstance(loss_fn, nn.Module) else loss_fn
    return loss_fn if str(getattr(of, "__module__", "")).startswith(TRUSTED) else OwnTargets(loss_fn)


@dataclass(frozen=True)
class OwnTargets:
    """A loss that gets a copy of its targets. It may write to the copy."""

    loss_fn: LossFn

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss_fn(outputs, targets.clone())
