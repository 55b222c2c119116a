"""``Recorder``: records each operation of PyTorch and each kernel of a computation, beneath autograd and ``vmap``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from innerloop.engine import _torch
from innerloop.engine.kernels import Destination, watching
from innerloop.engine.replay.reads import Reads
from innerloop.engine.replay.refused import RefusedError

__all__ = ["Entry", "Layout", "Recorder", "Ref", "Shape", "Slot"]

FORGET_EVERY = 4096
"""After this many blocks, the recorder forgets blocks that no longer exist."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the elements of a tensor lie within a block of memory. All numbers count elements."""

    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        """The layout of a tensor."""
        return cls(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype)


class Ref(NamedTuple):
    """A tensor of the computation: the number of its block of memory, and its layout there."""

    block: int
    layout: Layout


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands for a tensor among arguments: the place of its block among an entry's blocks, and its layout there."""

    place: int
    layout: Layout


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What an entry does, apart from its blocks. The entries of a loop share their shape.

    Attributes:
        function: an operation of PyTorch, or a kernel, which takes addresses.
        kernel: the kernel's name; None for an operation.
        args: the positional arguments, with a :class:`Slot` for each tensor.
        kwargs: the keyword arguments.
        outputs: the new tensors, each with its position among the results. The position is None if there is one result.
        written: for each block, whether the entry makes or changes it.
    """

    function: Callable[..., Any]
    kernel: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[tuple[int | None, Slot], ...]
    written: tuple[bool, ...]


class Entry(NamedTuple):
    """One step of a computation. The blocks of the arguments come first, then the blocks of the outputs."""

    shape: Shape
    blocks: tuple[int, ...]

    @property
    def made(self) -> list[int]:
        """The blocks of the outputs."""
        return [self.blocks[slot.place] for _, slot in self.shape.outputs]


class Recorder(_torch.Mode):
    """Inside this context, everything that this thread computes is recorded.

    Blocks of memory are identified by the storage that tensors share. The recorder keeps only the identity of a block,
    not the block. So recording needs no more memory than computing.

    Args:
        inputs: the input tensors of the computation. Each has memory of its own.

    Attributes:
        entries: the steps so far.
        inputs: the inputs. Their blocks have the first numbers.
        constants: tensors that existed before and are not inputs, by the number of their block.
        unknown: the constants that do not come from numbers in the code.
        bases: for each block, the layout of its first tensor.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.constants: dict[int, Tensor] = {}
        self.bases: list[Layout] = []
        self._blocks: dict[int, tuple[_torch.StorageRef, int]] = {}
        self._layouts: dict[Layout, Layout] = {}
        self._shapes: dict[Any, Shape] = {}
        self._refused: str | None = None
        self.inputs = [self._new(tensor) for tensor in inputs]
        self.unknown: dict[int, Tensor] = {}
        self._contexts = contextlib.ExitStack()

    def __enter__(self) -> Recorder:
        self._contexts.enter_context(watching(self))
        self._contexts.enter_context(Reads(self._refuse))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._contexts.__exit__(*error)

    def outputs(self, tensors: Iterable[Tensor]) -> list[Ref]:
        """The results, after the computation is done.

        Raises:
            RefusedError: the computation cannot be recorded.
        """
        refs = [self._ref(tensor) for tensor in tensors]
        given = {ref.block for ref in self.inputs} | self.constants.keys()
        if any(
            to and b in given for shape, blocks in self.entries for b, to in zip(blocks, shape.written, strict=True)
        ):
            self._refuse("it changes what it is given in place")
        if self._refused is not None:
            raise RefusedError(self._refused)
        return refs

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._refused is not None:
            return func(*args, **kwargs)
        if (not _REFUSED_TAGS.isdisjoint(func.tags) or func in _REFUSED) and not _by_number(func, args):
            self._refuse(f"{func} depends on values or random numbers, or changes what a tensor is")
        if _torch.only_checks(func):
            self._refuse(f"{func} looks at values to see whether they are good")
        if func is torch.ops.aten.lift_fresh.default:  # a constant, whose memory no operation has allocated
            self._constant(args[0])
        blocks: list[int] = []
        args_of = self._noted(args, blocks)
        kwargs_of = {key: self._noted(value, blocks) for key, value in kwargs.items()}
        result = func(*args, **kwargs)
        self._note(func, args_of, kwargs_of, blocks, result)
        return result

    def kernel(
        self, name: str, function: Callable[..., Any], arguments: Sequence[Any], results: Sequence[bool]
    ) -> None:
        """Record a call of a kernel. ``results`` says which of the arguments it writes to."""
        if self._refused is not None:
            return
        blocks: list[int] = []
        args = self._noted(tuple(arguments), blocks)
        written = tuple(to for arg, to in zip(args, results, strict=True) if isinstance(arg, Slot))
        self._add(Shape(function, name, args, {}, (), written), blocks)

    def place(self, tensor: Tensor) -> Destination:
        """The place that a kernel will write to later."""
        return Destination(tensor.data_ptr(), None if self._refused else self._ref(tensor))

    def _noted(self, value: Any, blocks: list[int]) -> Any:
        """The arguments with slots in place of tensors. The blocks of the tensors are added to the list."""
        if isinstance(value, Tensor | Destination):
            block, layout = self._ref(value) if isinstance(value, Tensor) else value.ref
            blocks.append(block)
            return Slot(len(blocks) - 1, layout)
        return type(value)(self._noted(v, blocks) for v in value) if type(value) in (list, tuple) else value

    def _note(self, func: Any, args: Any, kwargs: dict[str, Any], blocks: list[int], result: Any) -> None:
        """Record a call of an operation."""
        results = result if isinstance(result, tuple | list) else [result]
        if any(isinstance(tensor, Tensor) and not self._usual(tensor) for tensor in results):
            return
        if any(_argument(args, kwargs, *which) is None for which in _tensor_arguments(func)):
            self._refuse(f"{func} is given a tensor that is none")  # as some operations pass to their own derivatives
        new = [(i, t) for i, t in enumerate(results) if isinstance(t, Tensor) and self._known(t) is None]
        changed = _changed(func, args, kwargs)
        if not new and not changed:
            return  # a view, or sizes
        if func in _ALLOCATIONS:
            base, device = Layout.of(results[0]), results[0].device
            func, args, kwargs = torch.empty_strided, (base.size, base.stride), {"dtype": base.dtype, "device": device}
            blocks = []
        written = [place in changed for place in range(len(blocks))] + [True] * len(new)
        outputs = []
        for position, tensor in new:
            block, layout = self._new(tensor)
            outputs.append((position if results is result else None, Slot(len(blocks), layout)))
            blocks.append(block)
        self._add(Shape(func, None, args, kwargs, tuple(outputs), tuple(written)), blocks)

    def _add(self, shape: Shape, blocks: list[int]) -> None:
        function, kwargs = id(shape.function), tuple((name, _key(value)) for name, value in shape.kwargs.items())
        key = (function, shape.kernel, _key(shape.args), kwargs, shape.outputs, shape.written)
        self.entries.append(Entry(self._shapes.setdefault(key, shape), tuple(blocks)))

    def _known(self, tensor: Tensor) -> int | None:
        """The number of the block that a tensor lies in; None if the block is unknown."""
        found = self._blocks.get(_torch.storage_id(tensor))
        return None if found is None else found[1]

    def _new(self, tensor: Tensor) -> Ref:
        storage, number = tensor.untyped_storage(), len(self.bases)
        if number % FORGET_EVERY == 0:
            self._blocks = {key: block for key, block in self._blocks.items() if not block[0].expired()}
        self._blocks[_torch.storage_id(tensor)] = _torch.StorageRef(storage), number
        self.bases.append(self._layout(tensor))
        return Ref(number, self.bases[-1])

    def _constant(self, tensor: Tensor) -> Ref:
        ref = self._new(tensor)
        self.constants[ref.block] = tensor
        return ref

    def _ref(self, tensor: Tensor) -> Ref:
        if not self._usual(tensor):
            return Ref(-1, Layout(0, (), (), tensor.dtype))  # never used, because the computation is refused
        block = self._known(tensor)
        if block is None:
            ref = self._constant(tensor)
            self.unknown[ref.block] = tensor
            return ref
        return Ref(block, self._layout(tensor))

    def _layout(self, tensor: Tensor) -> Layout:
        layout = Layout.of(tensor)
        return self._layouts.setdefault(layout, layout)

    def _usual(self, tensor: Tensor) -> bool:
        """Whether a tensor is simply a part of a block of memory. Refuse the computation if not."""
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            self._refuse(f"it has tensors of an unusual kind: {type(tensor).__name__}, {tensor.layout}, {tensor.dtype}")
            return False
        return True

    def _refuse(self, reason: str) -> None:
        self._refused = self._refused or reason


def _changed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> set[int]:
    """The places of the blocks that an operation changes in place."""
    values = [_argument(args, kwargs, *which) for which in _written_arguments(func)]
    slots = [slot for value in values for slot in (value if isinstance(value, list | tuple) else [value])]
    return {slot.place for slot in slots if isinstance(slot, Slot)}


def _key(value: Any) -> Any:
    """A key to compare arguments by. Numbers of different types, and zeros of different signs, have different keys."""
    if isinstance(value, list | tuple):
        return (type(value), *map(_key, value))
    if isinstance(value, Slot | torch.dtype | torch.device | torch.memory_format | torch.layout):
        return value
    return (type(value), repr(value) if isinstance(value, bool | int | float | complex | str) else id(value))


def _argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)


@functools.cache
def _tensor_arguments(func: Any) -> list[tuple[int, str]]:
    return _torch.tensor_arguments(func)


@functools.cache
def _written_arguments(func: Any) -> list[tuple[int, str]]:
    return _torch.written_arguments(func)


def _by_number(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether this is indexing by integers. Its result has a known size, unlike that of indexing by a mask."""
    return func is _aten.index.Tensor and all(i is None or i.dtype in (torch.int64, torch.int32) for i in args[1])


_aten = torch.ops.aten
_ALLOCATIONS = (
    _aten.new_empty_strided.default,
    _aten.empty_strided.default,
    _aten.empty_like.default,
    _aten.new_empty.default,
    _aten.empty.memory_format,
)
_REFUSED = (
    *(_aten.resize_.default, _aten.set_.source_Storage_storage_offset, _aten.set_.source_Tensor),
    *_torch.reading_values,
)
_REFUSED_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
