"""What a computation does, written down: each operation of PyTorch and each kernel, beneath autograd and ``vmap``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from innerloop.taskwise import Place, watching

__all__ = ["Entry", "Recorder", "Ref", "RefusedError"]


class RefusedError(Exception):
    """A computation cannot be written down, since what it does depends on values, or for what its tensors are."""


@dataclass(frozen=True)
class Ref:
    """A tensor of the computation: a part of a block of memory.

    Attributes:
        block: the number of the block; those of the inputs come first, each its own.
        offset: of the first element, in elements.
        size: of each axis.
        stride: of each axis.
        dtype: the type of the elements.
    """

    block: int
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor, block: int) -> Ref:
        """A tensor that lies in this block."""
        return cls(block, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype)


@dataclass(frozen=True)
class Entry:
    """One step of a computation.

    Attributes:
        function: an operation of PyTorch, or a kernel, which is given addresses.
        kernel: the kernel's name; None of an operation.
        args: the positional arguments, with a :class:`Ref` for each tensor.
        kwargs: the others.
        outputs: the new tensors, by their position among the results; the position is None if there is one result.
        reads: the blocks that it reads.
        writes: the blocks that it makes or changes.
    """

    function: Callable[..., Any]
    kernel: str | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[tuple[int | None, Ref], ...]
    reads: frozenset[int]
    writes: frozenset[int]


class Recorder(TorchDispatchMode):
    """Within it, what is computed in this thread is written down.

    Blocks of memory are told apart by what PyTorch's tensors share, whatever tensors come and go. None is held, only
    its identity, so that recording needs no more memory than computing.

    Args:
        inputs: the tensors that the computation is a function of, each with memory of its own.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.constants: dict[int, Tensor] = {}
        self._blocks: dict[int, tuple[StorageWeakRef, int]] = {}
        self._count = 0
        self._refused: str | None = None
        self.inputs = [self._new(tensor) for tensor in inputs]
        self._watching = watching(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its compiler, which takes seconds, to tell it to leave this class alone

    def __enter__(self) -> Recorder:
        self._watching.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._watching.__exit__(*error)

    def outputs(self, tensors: Iterable[Tensor]) -> list[Ref]:
        """The results, when the computation is done.

        Raises:
            RefusedError: it could not be written down.
        """
        refs = [self._ref(tensor) for tensor in tensors]
        changed = {block for entry in self.entries for block in entry.writes}
        if changed & ({ref.block for ref in self.inputs} | self.constants.keys()):
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
        if func is torch.ops.aten.lift_fresh.default:  # a constant, in memory that PyTorch did not ask for just now
            self._constant(args[0])
        given: list[Ref] = []

        def noted(value: Any) -> Any:
            if isinstance(value, Tensor):
                given.append(self._ref(value))
                return given[-1]
            return type(value)(map(noted, value)) if type(value) in (list, tuple) else value

        args_of, kwargs_of = noted(args), {key: noted(value) for key, value in kwargs.items()}
        result = func(*args, **kwargs)
        self._note(func, args_of, kwargs_of, frozenset(ref.block for ref in given), result)
        return result

    def kernel(
        self, name: str, function: Callable[..., Any], arguments: Sequence[Any], results: Sequence[bool]
    ) -> None:
        """A kernel was called; ``results`` says which of the arguments it writes to."""
        if self._refused is not None:
            return
        refs = [self._ref(a) if isinstance(a, Tensor) else a.ref if isinstance(a, Place) else a for a in arguments]
        tensors = [(ref.block, to) for ref, to in zip(refs, results, strict=True) if isinstance(ref, Ref)]
        reads, writes = frozenset(block for block, _ in tensors), frozenset(block for block, to in tensors if to)
        self.entries.append(Entry(function, name, tuple(refs), {}, (), reads, writes))

    def place(self, tensor: Tensor) -> Place:
        """Where a kernel is to write to later on."""
        return Place(tensor.data_ptr(), None if self._refused else self._ref(tensor))

    def _note(self, func: Any, args: Any, kwargs: dict[str, Any], reads: frozenset[int], result: Any) -> None:
        results = result if isinstance(result, tuple | list) else [result]
        if any(isinstance(tensor, Tensor) and not self._usual(tensor) for tensor in results):
            return
        outputs = []
        for position, tensor in enumerate(results):
            if isinstance(tensor, Tensor) and self._known(tensor) is None:
                outputs.append((position if results is result else None, self._new(tensor)))
        if any(_argument(args, kwargs, *which) is None for which in _tensor_arguments(func)):
            self._refuse(f"{func} is given a tensor that is none")  # as operations give to their own derivatives
        changed = _changed(func, args, kwargs)
        if not outputs and not changed:
            return  # a view, or sizes
        if func in _ALLOCATIONS:
            (_, ref), device = outputs[0], results[0].device
            func, args, kwargs = torch.empty_strided, (ref.size, ref.stride), {"dtype": ref.dtype, "device": device}
            reads = frozenset()
        writes = changed.union(ref.block for _, ref in outputs)
        self.entries.append(Entry(func, None, tuple(args), kwargs, tuple(outputs), reads, writes))

    def _known(self, tensor: Tensor) -> int | None:
        """The number of the block that a tensor lies in."""
        found = self._blocks.get(tensor.untyped_storage()._cdata)
        return None if found is None else found[1]

    def _new(self, tensor: Tensor) -> Ref:
        storage = tensor.untyped_storage()
        self._blocks[storage._cdata] = StorageWeakRef(storage), self._count
        self._count += 1
        return self._ref(tensor)

    def _constant(self, tensor: Tensor) -> Ref:
        ref = self._new(tensor)
        self.constants[ref.block] = tensor
        return ref

    def _ref(self, tensor: Tensor) -> Ref:
        if not self._usual(tensor):
            return Ref(-1, 0, (), (), tensor.dtype)  # of no use, since all of it is refused
        block = self._known(tensor)
        return self._constant(tensor) if block is None else Ref.of(tensor, block)

    def _usual(self, tensor: Tensor) -> bool:
        """Whether a tensor is no more than a part of a block of memory; refuses one that is."""
        plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            self._refuse(f"it has tensors of an unusual kind: {type(tensor).__name__}, {tensor.layout}, {tensor.dtype}")
            return False
        return True

    def _refuse(self, reason: str) -> None:
        self._refused = self._refused or reason


def _changed(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> frozenset[int]:
    """The blocks that an operation changes in place."""
    values = [_argument(args, kwargs, *which) for which in _written_arguments(func)]
    refs = [ref for value in values for ref in (value if isinstance(value, list | tuple) else [value])]
    return frozenset(ref.block for ref in refs if isinstance(ref, Ref))


def _argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if place < len(args) else kwargs.get(name)


@functools.cache
def _tensor_arguments(func: Any) -> list[tuple[int, str]]:
    """The places and names of the arguments that must be tensors."""
    arguments = enumerate(func._schema.arguments)
    return [(place, a.name) for place, a in arguments if isinstance(a.type, torch.TensorType)]


@functools.cache
def _written_arguments(func: Any) -> list[tuple[int, str]]:
    """The places and names of the arguments that an operation changes."""
    arguments = enumerate(func._schema.arguments)
    return [(place, a.name) for place, a in arguments if a.alias_info is not None and a.alias_info.is_write]


def _by_number(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether this is an indexing by numbers, whose result has a known size, unlike one by a mask."""
    return func is _aten.index.Tensor and all(i is None or i.dtype in (torch.int64, torch.int32) for i in args[1])


_aten = torch.ops.aten
_ALLOCATIONS = (
    _aten.new_empty_strided.default,
    _aten.empty_strided.default,
    _aten.empty_like.default,
    _aten.new_empty.default,
    _aten.empty.memory_format,
)
_REFUSED = (_aten.resize_.default, _aten.set_.source_Storage_storage_offset, _aten.set_.source_Tensor)
_REFUSED_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded}
