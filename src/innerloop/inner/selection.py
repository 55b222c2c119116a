"""Choosing by name the parameters that the inner loop adapts."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import Tensor

from innerloop.params import Params

__all__ = ["complement", "partition"]


def partition(params: Mapping[str, Tensor], patterns: str) -> tuple[Params, Params]:
    """Split named parameters into the ones that the inner loop adapts and the ones that it keeps fixed.

    Args:
        params: the model's meta-learned parameters by name.
        patterns: shell-style name patterns, separated by spaces and read from left to right. A pattern that begins with
            ``!`` takes its matches out again. ``"*"`` adapts all parameters, ``"head.*"`` only a head,
            ``"* !*.norm.*"`` all except normalisation layers. ``@last`` means the parameters of the last layer, which
            in most networks is the head.

    Returns:
        The adapted parameters and the others.

    Raises:
        ValueError: a pattern matches no name, or nothing is left to adapt.

    Example:
        >>> import torch
        >>> adapted, fixed = partition({"body.w": torch.ones(1), "head.w": torch.ones(1)}, "* !body.*")
        >>> list(adapted), list(fixed)
        (['head.w'], ['body.w'])
    """
    chosen: set[str] = set()
    for pattern in patterns.split():
        matches = _matches(list(params), pattern.removeprefix("!"))
        if not matches:
            raise ValueError(f"the pattern {pattern!r} matches none of the parameters {', '.join(params)}")
        chosen = chosen - matches if pattern.startswith("!") else chosen | matches
    if not chosen:
        raise ValueError(f"the patterns {patterns!r} leave no parameter to adapt; '*' adapts all of them")
    adapted = {name: tensor for name, tensor in params.items() if name in chosen}
    return adapted, {name: tensor for name, tensor in params.items() if name not in chosen}


def complement(patterns: str) -> str:
    """The patterns that match exactly the other parameters.

    Example:
        >>> complement("head.* !*.bias")
        '* !head.* *.bias'
    """
    turned = [p.removeprefix("!") if p.startswith("!") else f"!{p}" for p in patterns.split()]
    return " ".join(["*", *turned])


def _matches(names: list[str], pattern: str) -> set[str]:
    if pattern == "@last":
        layer = names[-1].rpartition(".")[0]
        return {name for name in names if name.rpartition(".")[0] == layer}
    return {name for name in names if fnmatchcase(name, pattern)}
