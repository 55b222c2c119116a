"""Where the inner loop starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from innerloop.params import Params, expand_tasks

__all__ = ["Start", "initialisation"]

Start = Callable[[Mapping[str, Tensor], int], Params]
"""``(meta-parameters to be adapted, tasks T) -> starting values [T, ...]``."""


def initialisation(adapted: Mapping[str, Tensor], tasks: int) -> Params:
    """Every task starts from the meta-learned initialisation θ (MAML, Reptile)."""
    return expand_tasks(adapted, tasks)
