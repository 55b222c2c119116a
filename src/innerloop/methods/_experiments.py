"""The names of the experiments on the published data sets, for the recipes of several methods."""

from __future__ import annotations

__all__ = ["MINI", "PHOTOGRAPHS", "PHOTOGRAPHS_1S", "PHOTOGRAPHS_5S"]

_SETS = ("mini-imagenet", "tiered-imagenet", "cifar-fs", "fc100", "cub")

MINI = "mini-imagenet-5w1s mini-imagenet-5w5s"
"""Both experiments on mini-ImageNet."""

PHOTOGRAPHS_1S = " ".join(f"{name}-5w1s" for name in _SETS)
"""The 5-way 1-shot experiments on all published data sets of photographs."""

PHOTOGRAPHS_5S = " ".join(f"{name}-5w5s" for name in _SETS)
"""The 5-way 5-shot experiments on them."""

PHOTOGRAPHS = f"{PHOTOGRAPHS_1S} {PHOTOGRAPHS_5S}"
"""All experiments on them."""
