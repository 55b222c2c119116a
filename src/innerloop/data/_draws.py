"""Random draws without replacement, for many tasks at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from innerloop.episode import Episode

__all__ = ["check_counts", "draw_distinct", "moved"]


def draw_distinct(counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw ``k`` distinct numbers from 0 to ``counts - 1``, for each entry of ``counts``, in random order.

    This is Floyd's algorithm. Its cost does not depend on the counts, and all subsets are equally likely. The numbers
    are then shuffled, since the algorithm tends to give large ones last.

    Args:
        counts: whole numbers of at least ``k``, of any shape ``[...]``.
        k: how many to draw.
        generator: the source of randomness, on the device of ``counts``.

    Returns:
        int64 ``[..., k]``.

    Example:
        >>> drawn = draw_distinct(torch.tensor([3, 1000]), 3, torch.Generator().manual_seed(0))
        >>> drawn[0].sort().values
        tensor([0, 1, 2])
    """
    chosen = torch.empty(*counts.shape, k, dtype=torch.int64, device=counts.device)
    for i in range(k):
        last = counts - k + i
        unit = torch.rand(counts.shape, dtype=torch.float64, generator=generator, device=counts.device)
        drawn = (unit * (last + 1)).long().minimum(last)
        taken = (chosen[..., :i] == drawn.unsqueeze(-1)).any(-1)
        chosen[..., i] = torch.where(taken, last, drawn)
    order = torch.rand(chosen.shape, dtype=torch.float64, generator=generator, device=counts.device).argsort(-1)
    return chosen.gather(-1, order)


def check_counts(**given: tuple[int, int]) -> None:
    """Raise ``ValueError`` for a number below its least value. Each argument is the number and the least value."""
    for name, (value, least) in given.items():
        if value < least:
            raise ValueError(f"{name}={value}: expected at least {least}.")


def moved(tensors: Sequence[Tensor], device: torch.device) -> Episode:
    """The episode of four tensors, on a device."""
    return Episode(*(tensor.to(device) for tensor in tensors))
