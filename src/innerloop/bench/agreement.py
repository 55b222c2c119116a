"""Equality first: a time is worth nothing before it is known that all contenders compute the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median_low

import torch
from torch import Tensor

from innerloop.bench.contenders import OURS
from innerloop.bench.peers import MetaGradientFn
from innerloop.episode import Episode

__all__ = ["DisagreementError", "agreement", "relative_difference", "tolerance"]


class DisagreementError(Exception):
    """A contender's gradient is not the one the others computed."""


def relative_difference(grads: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of any entry, relative to the largest entry of the same parameter's gradient.

    Infinite if the names differ or a value is not a number.

    Example:
        >>> relative_difference({"w": torch.tensor([3.0, -4.5])}, {"w": torch.tensor([3.0, -4.0])})
        0.125
    """
    if grads.keys() != expected.keys():
        return math.inf
    differences = [float((grads[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in expected.items()]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def tolerance(dtype: torch.dtype, steps: int) -> float:
    """The largest relative difference of two gradients that are the same to rounding.

    In float32 rounding moves one activation in a million or so across the kink of its ReLU, and that alone can change
    the second-order gradient of that task by several percent. Along several inner steps this happens to many tasks, so
    that there float64 judges alone.

    Example:
        >>> tolerance(torch.float64, steps=128), tolerance(torch.float32, steps=1)
        (1e-08, 0.001)
    """
    if dtype == torch.float64:
        return 1e-8
    return 1e-3 if steps <= 1 else math.inf


def agreement(contenders: Mapping[str, MetaGradientFn], pieces: Sequence[Episode], allowed: float) -> dict[str, float]:
    """How far every other contender's gradient is from innerloop's, by name: the median over pieces of an episode.

    In float32 the pieces are to be several single tasks, few of which jump across a kink (see :func:`tolerance`). In
    float64 no activation is that close to one, and a whole episode is to be one piece.

    Raises:
        DisagreementError: it is further than allowed.
    """
    expected = [dict(contenders[OURS](piece)) for piece in pieces]
    found = {
        name: median_low(relative_difference(fn(piece), right) for piece, right in zip(pieces, expected, strict=True))
        for name, fn in contenders.items()
        if name != OURS
    }
    dtype = pieces[0].support_x.dtype
    wrong = [f"{name} by {difference:.1e}" for name, difference in found.items() if difference > allowed]
    if wrong:
        raise DisagreementError(
            f"gradients differ from {OURS}'s by more than {allowed:.0e} in {dtype}: {', '.join(wrong)}"
        )
    return found
