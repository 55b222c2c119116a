"""The random numbers of a step once more, so that it can be computed twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RandomState"]


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
        same_on_cuda = self.cuda is None or (other.cuda is not None and torch.equal(self.cuda, other.cuda))
        return same_on_cuda and torch.equal(self.cpu, other.cpu)

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Within it the numbers drawn after this state are drawn once more; afterwards all is as before."""
        before = RandomState.now(self.device)
        self._set()
        try:
            yield
        finally:
            before._set()

    def _set(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
