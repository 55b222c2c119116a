"""No gradient at all."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import Problem, Support
from innerloop.metagrad.base import Info, MetaGradient
from innerloop.metagrad.displacement import displacement
from innerloop.params import Params

__all__ = ["untrained"]

_observing = displacement("last")


def untrained() -> MetaGradient:
    """Zeros, for a method that learns nothing from other tasks, such as training from scratch.

    What happens in the inner loop and on the queries is observed as ever. :attr:`innerloop.Method.learns` tells such
    methods apart.
    """
    return _zeros


def _zeros(
    problem: Problem,
    adaptation: Adaptation,
    meta_params: Mapping[str, Tensor],
    episode: Episode,
    support: Support,
) -> tuple[Params, Info]:
    _, info = _observing(problem, adaptation, meta_params, episode, support)
    return {name: torch.zeros_like(tensor) for name, tensor in meta_params.items()}, info
