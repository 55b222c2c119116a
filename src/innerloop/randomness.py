"""Seeds of independent random streams, so that what an iteration draws depends on its number and nothing else.

And the state of torch's global generators, which layers such as dropout draw from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

__all__ = ["RandomState", "Stream", "generator_at"]


class Stream(IntEnum):
    """What a stream of random numbers is for."""

    TRAINING = 0
    VALIDATION = 1
    TESTING = 2
    ADAPTING = 3
    STATISTICS = 4


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


@dataclass(frozen=True)
class RandomState:
    """The state of torch's global random generators, of the CPU and of the CUDA device in use."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """As it is now."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    def same_as(self, other: RandomState) -> bool:
        """Whether nothing was drawn between the two."""
        same_on_cuda = self.cuda is None or (other.cuda is not None and _same(self.cuda, other.cuda))
        return same_on_cuda and _same(self.cpu, other.cpu)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Within it the numbers drawn after this state are drawn once more; afterwards all is as before."""
        before = RandomState.now(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()

    def restore(self) -> None:
        """Have the generators go on from here."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def _same(one: Tensor, other: Tensor) -> bool:
    # Not by torch.equal, for a computation that asks a tensor for a value cannot be recorded (innerloop.engine.replay).
    return bool(np.array_equal(one.numpy(), other.numpy()))
