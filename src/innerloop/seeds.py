"""Seeds of independent random streams, so that what an iteration draws depends on its number and nothing else."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch

__all__ = ["Stream", "generator_at"]


class Stream(IntEnum):
    """What a stream of random numbers is for."""

    TRAINING = 0
    VALIDATION = 1
    TESTING = 2
    ADAPTING = 3


def generator_at(seed: int, stream: Stream, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the beginning of the numbers of one iteration.

    Args:
        seed: the seed of the run.
        stream: what the numbers are for.
        index: the iteration; streams of different iterations are independent.
        device: where the generator is to work.

    Example:
        >>> a, b = generator_at(0, Stream.TRAINING, 7), generator_at(0, Stream.TRAINING, 7)
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    state = np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
