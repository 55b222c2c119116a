"""Particles: a network may consist of several networks. Here is how their parameters are named."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MIXTURE", "by_particle"]

MIXTURE = "mixture"
"""The name of the layer that combines the outputs ``[N, M, ...]`` of M particles into one."""

_OF_PARTICLE = re.compile(r"^((?:.*\.)?particles)\.(\d+)\.")


def by_particle(names: Iterable[str]) -> list[list[str]]:
    """Group the names of parameters by particle. Names without particles are one group.

    Raises:
        ValueError: the particles do not all have the same parameters, or some parameters belong to no particle.

    Example:
        >>> by_particle(["particles.0.weight", "particles.0.bias", "particles.1.weight", "particles.1.bias"])
        [['particles.0.weight', 'particles.0.bias'], ['particles.1.weight', 'particles.1.bias']]
        >>> by_particle(["weight", "bias"])
        [['weight', 'bias']]
    """
    groups: dict[str, list[str]] = {}
    inside: dict[str, set[str]] = {}
    for name in names:
        match = _OF_PARTICLE.match(name)
        key = match.group() if match else ""
        groups.setdefault(key, []).append(name)
        inside.setdefault(key, set()).add(name.removeprefix(key))
    first, *others = inside.values()
    if any(other != first for other in others):
        raise ValueError(
            "the parameters to adapt must be the same ones of every particle: choose them with patterns such as "
            f"adapt='particles.*.head.*'; given are {', '.join(name for group in groups.values() for name in group)}"
        )
    return list(groups.values())
