"""Parts of sweeps: what a kernel of a recording reads and writes for each image, for each task, and for all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch

from innerloop.engine.kernels import Geometry
from innerloop.engine.replay.arena import bytes_of
from innerloop.engine.replay.recorder import Entry, Layout, Slot

__all__ = ["Domain", "Part", "Use", "parts_of"]

WIDEST = 16
"""The numbers in the widest vector. Channels are multiples of it, or the kernels pad them."""

MANY, SHORT = 12, 8
"""As in ``csrc/convolution.h``: with fewer channels and shorter lines, the order of a sum depends on the images."""


class Domain(NamedTuple):
    """The numbers of tasks, and of images of a task."""

    tasks: int
    images: int


@dataclass(frozen=True)
class Use:
    """What a part reads or writes of a block.

    Attributes:
        block: the number of the block.
        layout: the layout there.
        written: whether it is written.
        by_task: the bytes from one task to the next.
        by_image: the bytes from one image to the next; 0 if it is not images.
    """

    block: int
    layout: Layout
    written: bool
    by_task: int
    by_image: int

    def spans(self, base: Layout, domain: Domain) -> bool:
        """Whether it is all of its block."""
        return not self.layout.offset and bytes_of(base) == self.by_image * domain.images * domain.tasks

    def moves_like(self, other: Use) -> bool:
        """Whether both have the same images in the same places."""
        one, two = (use.layout.offset * use.layout.dtype.itemsize for use in (self, other))
        return bool(self.by_image) and (one, self.by_task, self.by_image) == (two, other.by_task, other.by_image)


@dataclass(eq=False)
class Part:
    """A kernel, or half of one, as a part of a sweep.

    Attributes:
        name: its name among the parts of the library.
        domain: the tasks and images that it works on.
        dtype: the type of its numbers.
        arguments: its arguments. Blocks are given as their use.
        again: whether another sweep may run it again, because it only writes images.
        channels: the channels of a batch norm.
        state: a number that both halves of a batch norm share; None if it has no halves, or needs no sums.
        memory: the number of the memory with the sums.
        turned_bytes: the bytes for turned weights.
    """

    name: str
    domain: Domain
    dtype: torch.dtype
    arguments: list[Any]
    again: bool = False
    channels: int = 0
    state: int | None = None
    memory: int | None = None
    turned_bytes: int = 0

    @property
    def uses(self) -> list[Use]:
        """What it reads and writes."""
        return [argument for argument in self.arguments if isinstance(argument, Use)]


_ROLES = {
    "convolve": "Sxwy",
    "weight_gradient": "Sxxr",
    "input_gradient": "Sxwy",
    "normalise": "nnnnnnxssrry",
    "normalise_back": "nnnnnxxsskkyrr",
    "normalise_twice": "nnnnnxkkxxsskkyyr",
    "normalise_pool": "Snnxssrryyy",
    "normalise_pool_back": "Snxxsskkxxyrr",
    "normalise_pool_twice": "Snxkkxxsskkxxyyr",
}
"""For each argument: S sizes, n a number, x images that are read, y images that are written, w weights, s scale or
shift, k what each task has one of, r a result of which each task has one."""

_HALVES = {
    "normalise": ("moments", "apply"),
    "normalise_back": ("back_sums", "back"),
    "normalise_twice": ("twice_sums", "twice"),
    "normalise_pool": ("pooled_moments", "pooled_apply"),
    "normalise_pool_back": ("pooled_back_sums", "pooled_back"),
    "normalise_pool_twice": ("pooled_twice_sums", "pooled_twice"),
}

_states: Iterator[int] = itertools.count()


def parts_of(entry: Entry, domain: Domain | None) -> list[Part] | None:
    """The parts of a native step; None if it cannot be part of a sweep.

    Args:
        entry: the step.
        domain: the tasks and images of the part before. Sums and multiples are parts only of a sweep with these.
    """
    shape = entry.shape
    if shape.kernel is None:
        return None if domain is None else _elementwise(entry, domain)
    roles, args = _ROLES.get(shape.kernel), shape.args
    if roles is None:
        return None
    found = _domain(shape.kernel, args)
    dtype = next(a.layout.dtype for a in args if isinstance(a, Slot))
    if found is None or not _same_in_parts(shape.kernel, args):
        return None
    arguments: list[Any] = []
    for role, argument in zip(roles, args, strict=True):
        use = _use(role, argument, entry, found)
        if use is None:
            return None
        arguments.append(use[0])
    if shape.kernel not in _HALVES:
        turned = 0
        if shape.kernel == "input_gradient":
            sizes = args[0]
            inside = -(-sizes.channels_in // WIDEST) * WIDEST
            turned = sizes.kernel_h * sizes.kernel_w * sizes.channels_out * inside * dtype.itemsize
        return [Part(shape.kernel, found, dtype, arguments, turned_bytes=turned)]
    first, second = _HALVES[shape.kernel]
    channels = args[0].channels_in if isinstance(args[0], Geometry) else args[3]
    state = next(_states)
    sums = [0 if role == "y" else a for role, a in zip(roles, arguments, strict=True)]
    forward = shape.kernel in ("normalise", "normalise_pool")  # its second half needs the mean, but not the sums
    rows = [(_read(a) if forward else 0) if role == "r" else a for role, a in zip(roles, arguments, strict=True)]
    again = shape.kernel == "normalise"
    return [
        Part(first, found, dtype, sums, channels=channels, state=state),
        Part(second, found, dtype, rows, again=again, channels=channels, state=None if forward else state),
    ]


def _read(use: Any) -> Any:
    """A result of the first half, as the second half uses it."""
    return Use(use.block, use.layout, False, use.by_task, use.by_image) if isinstance(use, Use) else use


def _domain(kernel: str, args: tuple[Any, ...]) -> Domain | None:
    if isinstance(args[0], Geometry):
        return Domain(args[0].tasks, args[0].images)
    size = next(a.layout.size for a in args if isinstance(a, Slot))
    groups, rows = args[0], args[2]
    return Domain(groups, size[1]) if len(size) == 5 and size[0] == groups and rows % size[1] == 0 else None


def _same_in_parts(kernel: str, args: tuple[Any, ...]) -> bool:
    """Whether the kernel gives the same bits if it gets the images in parts."""
    if kernel != "weight_gradient":
        return True
    sizes = args[0]
    return bool(sizes.channels_out % WIDEST == 0 and (sizes.channels_in >= MANY or sizes.out_width >= SHORT))


def _use(role: str, argument: Any, entry: Entry, domain: Domain) -> tuple[Any] | None:
    """The argument of a part in a tuple; None if it does not fit."""
    if not isinstance(argument, Slot):
        return (0 if argument is None else argument,)
    layout = argument.layout
    whole, args = prod(layout.size) * layout.dtype.itemsize, entry.shape.args
    by_task = by_image = 0
    if role in "xy":
        if whole % (domain.tasks * domain.images):
            return None
        by_task, by_image = whole // domain.tasks, whole // (domain.tasks * domain.images)
    elif role in "kr" or (role == "w" and not args[0].shared_weights):
        if whole % domain.tasks:
            return None
        by_task = whole // domain.tasks
    elif role == "s":
        channels = args[0].channels_in if isinstance(args[0], Geometry) else args[3]
        sets, each = whole // (channels * layout.dtype.itemsize), args[1]
        if each * sets != domain.tasks or sets not in (1, domain.tasks):
            return None
        by_task = whole // sets if sets > 1 else 0
    return (Use(entry.blocks[argument.place], layout, role in "yr", by_task, by_image),)


def _elementwise(entry: Entry, domain: Domain) -> list[Part] | None:
    """A sum or a multiple of images."""
    one, other = entry.shape.args
    result = entry.shape.outputs[0][1]
    size, stride = result.layout.size, result.layout.stride
    numbers = prod(size)
    each = numbers // (domain.tasks * domain.images)
    lie_so = len(size) == 5 and size[:2] == domain and stride[:2] == (each * domain.images, each)
    if not lie_so or each == 0:
        return None

    def use(slot: Slot, *, written: bool = False) -> Use:
        bytes_each = each * slot.layout.dtype.itemsize
        return Use(entry.blocks[slot.place], slot.layout, written, bytes_each * domain.images, bytes_each)

    tensors = isinstance(other, Slot)
    arguments = [each, use(one), use(other) if tensors else float(other), use(result, written=True)]
    return [Part("add" if tensors else "multiply", domain, result.layout.dtype, arguments)]
