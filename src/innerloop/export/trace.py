"""Record a computation of tensors as a list of PyTorch's basic operators, gradients included."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn.attention import SDPBackend, sdpa_kernel

from innerloop.engine import _torch
from innerloop.engine.pytree import TreeSpec, tree_flatten, tree_unflatten
from innerloop.export.errors import ExportError
from innerloop.params import flattened

__all__ = ["Recorded", "fixed_length", "record"]

LENGTHS_TRIED = range(2, 65)
"""Lengths of a free axis at which conditions on it are tried. A single example is tried when the graph is checked."""


@dataclass(frozen=True)
class Recorded:
    """A computation as a list of basic operators.

    Attributes:
        module: the operators, in the order in which they run.
        inputs: the node of each input tensor.
        outputs: what the computation returns, with nodes in place of tensors.
    """

    module: GraphModule
    inputs: list[Node]
    outputs: Any


def record(fn: Callable[..., Any], arguments: tuple[Any, ...], free: Mapping[int, str], what: str) -> Recorded:
    """Run a function once without values, and record which operators it calls.

    Args:
        fn: the function. It takes and returns nested dicts and tuples of tensors, and None.
        arguments: its arguments. Only their shapes and types are used.
        free: the positions of the arguments whose first axis may have any length, each with a name. Axes of one name
            have one length. All other lengths are fixed.
        what: what the function computes, for error messages.

    Raises:
        ExportError: the function cannot be recorded, or it does something else for other lengths of the free axes.
    """
    if not _torch.has("tracing"):  # pragma: no cover
        raise ExportError(f"this release of PyTorch cannot record computations: {_torch.missing('tracing')}")
    axes = [free.get(position) for position, argument in enumerate(arguments) for _ in flattened(argument)]
    # Axes of equal length would be taken for one axis. So each free axis gets a length that no other axis has.
    taken = {length for tensor in flattened(arguments) for length in tensor.shape}
    primes = (n for n in itertools.count(11) if n not in taken and all(n % m for m in range(2, math.isqrt(n) + 1)))
    lengths = {name: next(primes) for name in dict.fromkeys(free.values())}
    module, outputs = _recorded_at(lengths, fn, arguments, axes, what)
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for name, length in _doubtful(module, inputs, axes, lengths, taken):
        other, _ = _recorded_at({**lengths, name: length}, fn, arguments, axes, what)
        if _listed(other) != _listed(module):
            raise ExportError(f"{what} does something else for {length} examples than for {lengths[name]}; {REMEDY}")
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    return Recorded(module, inputs, tree_unflatten(output.args[0], outputs))


def _recorded_at(
    lengths: Mapping[str, int], fn: Callable[..., Any], arguments: tuple[Any, ...], axes: list[str | None], what: str
) -> tuple[GraphModule, TreeSpec]:
    """A recording at these lengths of the free axes, and the structure of what the function returns."""
    leaves, spec = tree_flatten(arguments)
    stand_ins = [
        tensor.detach() if axis is None else tensor.new_zeros(lengths[axis], *tensor.shape[1:])
        for tensor, axis in zip(flattened(arguments), axes, strict=True)
    ]
    found: list[TreeSpec] = []

    def fix(tensors: tuple[Tensor, ...]) -> None:
        # Reading a length makes it a fixed number in the recording.
        for tensor, axis in zip(tensors, axes, strict=True):
            for length in tensor.shape[0 if axis is None else 1 :]:
                int(length)

    def flat(*tensors: Tensor) -> list[Tensor]:
        fix(tensors)
        rest = iter(tensors)
        given = [None if leaf is None else next(rest) for leaf in leaves]
        results, structure = tree_flatten(fn(*tree_unflatten(given, spec)))
        found[:] = [structure]
        return results

    module = _traced(flat, stand_ins, what)
    if any(_writes(node) for node in module.graph.nodes):
        first = module

        def again(*tensors: Tensor) -> Any:
            fix(tensors)
            return first(*tensors)

        module = _traced(torch.func.functionalize(again, remove="mutations"), stand_ins, what)
    for node in list(module.graph.nodes):
        if _takes_all(node):
            node.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, found[0]


def _traced(fn: Callable[..., Any], tensors: list[Tensor], what: str) -> GraphModule:
    import torch.export  # takes a while, and only exporting needs it

    decompositions = torch.export.default_decompositions()
    try:
        with sdpa_kernel([SDPBackend.MATH]):  # which consists of basic operators
            module: GraphModule = _torch.trace(
                fn,
                tracing_mode="symbolic",
                decomposition_table=dict(decompositions),
                _allow_non_fake_inputs=True,  # other tensors that the computation uses become constants
            )(*tensors)
    except (ExportError, ValueError):
        raise
    except Exception as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ExportError(
            f"{what} cannot be recorded: {said}; a graph cannot hold a computation that looks at the values of tensors "
            "in Python"
        ) from error
    return module


def fixed_length(length: Any) -> int | None:
    """The length of a recorded axis; None if it is free."""
    if isinstance(length, int):
        return length
    expression = length.node.expr
    return int(expression) if expression.is_number else None


def _takes_all(node: Node) -> bool:
    """Whether an operator cuts a whole axis out of a tensor. It depends on lengths whether such a one is recorded."""
    rest = node.args[2:]
    return (
        str(node.target) == "aten.slice.Tensor"
        and len(rest) == 2
        and rest[0] in (0, None)
        and bool(rest[1] == sys.maxsize)
    )


def _listed(module: GraphModule) -> list[Any]:
    """The operators with their arguments, without the names of nodes."""
    numbers = {node: number for number, node in enumerate(module.graph.nodes)}
    return [
        (str(node.target), *map_arg((node.args, node.kwargs), lambda n: f"result {numbers[n]}"))
        for node in module.graph.nodes
        if node.op != "placeholder"
    ]


def _writes(node: Node) -> bool:
    """Whether an operator changes one of its inputs. Those have names that end with an underscore."""
    _, _, name = str(node.target).partition("aten.")
    operator, _, overload = name.partition(".")
    return node.op == "call_function" and (overload.endswith("out") or bool(re.search(r"[^_]_$", operator)))


def _doubtful(
    module: GraphModule, inputs: list[Node], axes: list[str | None], lengths: Mapping[str, int], taken: Collection[int]
) -> Iterator[tuple[str, int]]:
    """Lengths of free axes at which the computation might be another: those that fail a condition on the length.

    Most such conditions only choose between implementations of one operator.
    """
    symbols: dict[Any, str] = {}
    for node, axis in zip(inputs, axes, strict=True):
        if axis is not None:
            length = node.meta["val"].shape[0]
            if fixed_length(length) is not None:
                raise ExportError(f"the computation needs to know the number of examples; {REMEDY}")
            symbols[length.node.expr] = axis
    environment: Any = module.shape_env
    untaken = [n for n in LENGTHS_TRIED if n not in taken and n not in lengths.values()]
    for guard in environment.guards:
        for symbol in guard.expr.free_symbols & symbols.keys():
            held = guard.expr.subs({other: lengths[axis] for other, axis in symbols.items() if other != symbol})
            yield from itertools.islice(((symbols[symbol], n) for n in untaken if not bool(held.subs(symbol, n))), 1)


REMEDY = "fix the numbers with examples=(support, query)"
