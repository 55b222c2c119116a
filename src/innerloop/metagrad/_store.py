"""The iterates that are kept on the way forth, side by side in memory."""

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
    """A stack of iterates: the last that was kept is the first to be given back.

    The first is kept as it came: mostly it consists of views of the meta-parameters and needs no memory. The others are
    copied into memory set apart for all of them. Where they came to lie, between what the steps need for a while, they
    would leave gaps of little use, which cost half as much memory again. Views of other tensors, and what is still the
    same as at first, such as learned rates, are left where they are.

    Args:
        room: the number of iterates there is memory for.
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
                    strides = torch.empty_like(t).stride()  # the axes in the order that they have in t
                    self._shelves[position] = t.new_empty_strided((self.room - 1, *t.shape), (t.numel(), *strides))
                shelf = self._shelves[position]
                return shelf[place].copy_(t) if shelf.shape[1:] == t.shape and shelf.dtype == t.dtype else t

            adapted, state = map_nested(stored, tensors)
            iterate = replace(iterate, adapted=adapted, state=state)
        self._iterates.append(iterate)

    def pop(self) -> Iterate:
        """The last one that was kept and has not been given back."""
        return self._iterates.pop()


def _address(t: Tensor) -> int:
    """Where the memory begins that a tensor is a view of, or has for itself."""
    return t.untyped_storage().data_ptr()
