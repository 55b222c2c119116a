"""Storage for the iterates that the forward sweep keeps. They lie side by side in memory."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from innerloop.inner.loop import Iterate
from innerloop.params import flattened, map_nested

__all__ = ["Kept"]


@dataclass
class Kept:
    """A stack of iterates: the last one pushed is the first one popped.

    The first iterate is kept as it is. It usually consists of views of the meta-parameters and needs no memory. All
    others are copied into memory reserved for them. Left in place, they would lie between the temporary tensors of the
    steps, and the gaps would cost half as much memory again. Two kinds of tensors are not copied: views of other
    tensors, and those that the first iterate has too, such as learned rates.

    Args:
        room: the largest number of iterates to keep.
    """

    room: int
    _iterates: list[Iterate] = field(default_factory=list)
    _shelves: dict[int, Tensor] = field(default_factory=dict)

    def push(self, iterate: Iterate) -> None:
        """Keep the values of an iterate."""
        if self._iterates:
            place, tensors = len(self._iterates) - 1, (iterate.adapted, iterate.state)
            first = {_address(t) for t in flattened((self._iterates[0].adapted, self._iterates[0].state))}
            positions = itertools.count()

            def stored(t: Tensor) -> Tensor:
                position = next(positions)
                if _address(t) in first or t.untyped_storage().nbytes() != t.nbytes:
                    return t
                if position not in self._shelves:
                    strides = torch.empty_like(t).stride()  # the same order of axes as in t
                    self._shelves[position] = t.new_empty_strided((self.room - 1, *t.shape), (t.numel(), *strides))
                shelf = self._shelves[position]
                return shelf[place].copy_(t) if shelf.shape[1:] == t.shape and shelf.dtype == t.dtype else t

            adapted, state = map_nested(stored, tensors)
            iterate = replace(iterate, adapted=adapted, state=state)
        self._iterates.append(iterate)

    def pop(self) -> Iterate:
        """Remove the last iterate and return it."""
        return self._iterates.pop()


def _address(t: Tensor) -> int:
    """The address of a tensor's storage. A view has the same storage as its base."""
    return t.untyped_storage().data_ptr()
