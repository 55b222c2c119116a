"""Random numbers.

``generator_at`` gives each iteration a generator of its own. What an iteration draws depends only on the seed, the
stream and the iteration's number. ``RandomState`` is the state of torch's global generators, from which layers such as
dropout draw.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

__all__ = ["RandomState", "Stream", "drawn_again", "generator_at"]


class Stream(IntEnum):
    """The purpose of a stream of random numbers. Streams are independent of each other."""

    TRAINING = 0
    VALIDATION = 1
    TESTING = 2
    ADAPTING = 3
    STATISTICS = 4


def generator_at(seed: int, stream: Stream, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator for one iteration of one stream.

    Args:
        seed: the seed of the run.
        stream: the purpose of the numbers.
        index: the iteration. Different iterations draw independent numbers.
        device: the device of the generator.

    Example:
        >>> a, b = generator_at(0, Stream.TRAINING, 7), generator_at(0, Stream.TRAINING, 7)
        >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
        True
    """
    state = np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class RandomState:
    """The state of torch's global random generators: the CPU's, and the CUDA device's if one is in use."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """The present state."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, device)

    def same_as(self, other: RandomState) -> bool:
        """Whether the two states are equal, so that nothing was drawn between them."""
        same_on_cuda = self.cuda is None or (other.cuda is not None and _same(self.cuda, other.cuda))
        return same_on_cuda and _same(self.cpu, other.cpu)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """In this context, draw the numbers that followed this state again. On leaving, restore the state before it."""
        before = RandomState.now(self.device)
        self.restore()
        try:
            yield
        finally:
            before.restore()

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


def drawn_again(device: torch.device, generator: torch.Generator | None = None) -> Callable[[], None]:
    """A function that makes the global generators, and one of the caller's, continue from where they are now.

    Args:
        device: the device whose global generator counts, besides the CPU's.
        generator: the generator of the caller, if there is one.

    Example:
        >>> again = drawn_again(torch.device("cpu"))
        >>> first = torch.rand(3)
        >>> again()
        >>> bool((torch.rand(3) == first).all())
        True
    """
    random, own = RandomState.now(device), None if generator is None else generator.get_state()

    def again() -> None:
        random.restore()
        if generator is not None and own is not None:
            generator.set_state(own)

    return again


def _same(one: Tensor, other: Tensor) -> bool:
    # By NumPy, so that no tensor is asked for a value by an operation of PyTorch.
    return one.numpy().tobytes() == other.numpy().tobytes()
