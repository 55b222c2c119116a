"""A recorded computation as a Python function that does it again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from innerloop.replay.recorder import Entry, Recorder, Ref, RefusedError
from innerloop.taskwise import KernelError

__all__ = ["program"]


def program(recorder: Recorder, results: Sequence[Ref]) -> Callable[..., tuple[Tensor, ...]]:
    """A function from the inputs to the results, without autograd, ``vmap`` or the module.

    A tensor is let go of after its last use, as in the computation itself.
    """
    return _Writer(recorder, results).function()


class _Writer:
    def __init__(self, recorder: Recorder, results: Sequence[Ref]) -> None:
        self._names: dict[Ref, str] = {}
        self._bases: dict[int, tuple[Ref, str]] = {}
        self._values: dict[str, Any] = {"torch": torch, "strided": torch.as_strided, "failed": _failed}
        self._constants: dict[tuple[type, Any], str] = {}
        self._originals: list[Any] = []  # kept while their identities count
        self._lines: list[tuple[str, list[str]]] = []  # with the variables that each uses or makes
        self._numbers = itertools.count()
        self._inputs = [self._named(ref, "i") for ref in recorder.inputs]
        self._kept = set(self._inputs)
        for block, tensor in recorder.constants.items():
            name = self._named(Ref.of(tensor, block), "k")
            self._values[name] = tensor.detach()
            self._kept.add(name)
        for entry in _needed(recorder.entries, results):
            self._write(entry)
        self._use: list[str] = []
        names = [self._variable(ref) for ref in results]
        self._lines.append((f"return ({''.join(name + ', ' for name in names)})", self._use))

    def function(self) -> Callable[..., tuple[Tensor, ...]]:
        last = {name: number for number, (_, names) in enumerate(self._lines) for name in names}
        source = [f"def replay({', '.join(self._inputs)}):"]
        for number, (line, names) in enumerate(self._lines):
            source.append(f" {line}")
            over = sorted({name for name in names if last[name] == number} - self._kept)
            if over and number + 1 < len(self._lines):
                source.append(f" del {', '.join(over)}")
        scope = dict(self._values)
        exec(compile("\n".join(source), "<replay>", "exec"), scope)
        function: Callable[..., tuple[Tensor, ...]] = scope["replay"]
        return function

    def _write(self, entry: Entry) -> None:
        self._use = []
        function = self._value(entry.function)
        if entry.kernel is not None:
            arguments = [self._address(a) if isinstance(a, Ref) else self._literal(a) for a in entry.args]
            line = f"if {function}({', '.join(arguments)}): failed({entry.kernel!r})"
        else:
            arguments = [self._literal(a) for a in entry.args]
            arguments += [f"{key}={self._literal(value)}" for key, value in entry.kwargs.items()]
            line = f"{function}({', '.join(arguments)})"
            made = [(position, self._named(ref, "v")) for position, ref in entry.outputs]
            self._use += [name for _, name in made]
            if len(made) == 1 and made[0][0] is None:
                line = f"{made[0][1]} = {line}"
            elif made:
                line = f"r = {line}; " + "; ".join(f"{name} = r[{position}]" for position, name in made) + "; del r"
        self._lines.append((line, self._use))

    def _named(self, ref: Ref, prefix: str) -> str:
        name = self._names[ref] = f"{prefix}{next(self._numbers)}"
        self._bases.setdefault(ref.block, (ref, name))
        return name

    def _value(self, value: Any) -> str:
        """A name for what is no tensor; the same one for the same numbers, of which a loop has many."""
        alike = (type(value), repr(value) if isinstance(value, tuple | list | float | str) else id(value))
        if alike not in self._constants:
            name = self._constants[alike] = f"c{len(self._constants)}"
            self._values[name] = value._op if isinstance(value, torch._ops.OpOverload) else value
            self._originals.append(value)
        return self._constants[alike]

    def _literal(self, value: Any) -> str:
        if isinstance(value, Ref):
            return self._variable(value)
        if isinstance(value, list | tuple):
            if not _has_ref(value):
                return self._value(value)
            inside = "".join(self._literal(item) + ", " for item in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        if value is None or isinstance(value, bool | int):
            return repr(value)
        return self._value(value)

    def _variable(self, ref: Ref) -> str:
        if ref not in self._names:
            base, name = self._bases[ref.block]
            if base.dtype != ref.dtype:
                raise RefusedError("it looks at memory as of another type")
            offset = f"{name}.storage_offset() + {ref.offset - base.offset}" if name[0] == "i" else str(ref.offset)
            view = f"strided({name}, {self._value(ref.size)}, {self._value(ref.stride)}, {offset})"
            made = self._named(ref, "v")
            self._lines.append((f"{made} = {view}", [made, name]))
        self._use.append(self._names[ref])
        return self._names[ref]

    def _address(self, ref: Ref) -> str:
        base, name = self._bases[ref.block]
        self._use.append(name)
        offset = ref.offset * ref.dtype.itemsize - base.offset * base.dtype.itemsize
        return f"{name}.data_ptr()" + (f" + {offset}" if offset else "")


def _needed(entries: Sequence[Entry], results: Sequence[Ref]) -> list[Entry]:
    """The entries that the results depend on."""
    blocks, needed = {ref.block for ref in results}, []
    for entry in reversed(entries):
        if entry.writes & blocks:
            blocks |= entry.reads
            needed.append(entry)
    return needed[::-1]


def _has_ref(value: Any) -> bool:
    return isinstance(value, Ref) or (isinstance(value, list | tuple) and any(map(_has_ref, value)))


def _failed(kernel: str) -> None:
    raise KernelError(kernel)
