"""Check that all contenders compute the same gradient, before any of them is timed."""

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
    """A contender's gradient differs from innerloop's."""


def relative_difference(grads: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of any entry, relative to the largest entry of the same parameter's gradient.

    It is infinite if the names differ or a value is NaN.

    Example:
        >>> relative_difference({"w": torch.tensor([3.0, -4.5])}, {"w": torch.tensor([3.0, -4.0])})
        0.125
    """
    if grads.keys() != expected.keys():
        return math.inf
    differences = [float((grads[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in expected.items()]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def tolerance(dtype: torch.dtype, steps: int) -> float:
    """The largest relative difference of two gradients that counts as rounding.

    In float32 rounding moves about one activation in a million across the kink of its ReLU. That alone can change the
    second-order gradient of a task by several percent. With several inner steps it happens in many tasks. Then only
    float64 is checked, and the tolerance for float32 is infinite.

    Example:
        >>> tolerance(torch.float64, steps=128), tolerance(torch.float32, steps=1)
        (1e-08, 0.001)
    """
    if dtype == torch.float64:
        return 1e-8
    return 1e-3 if steps <= 1 else math.inf


def agreement(contenders: Mapping[str, MetaGradientFn], pieces: Sequence[Episode], allowed: float) -> dict[str, float]:
    """The relative difference of every other contender's gradient from innerloop's: the median over the pieces.

    In float32, pass several single tasks as pieces. A few of them may cross a kink (see :func:`tolerance`), which does
    not move the median. In float64 no activation is that close to a kink: pass the whole episode as one piece.

    Raises:
        DisagreementError: a difference is larger than ``allowed``.
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
