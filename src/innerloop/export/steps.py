"""The inner loop in a graph: as a loop where every step is the same computation, else one step after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from innerloop.export.errors import ExportError
from innerloop.export.graph import Graph, Scalar, Size
from innerloop.export.pieces import Pieces, Tensors
from innerloop.export.translate import Value
from innerloop.export.writer import Place, Writer
from innerloop.inner.adaptation import draw_batches
from innerloop.inner.loop import InnerLoop, Iterate, Support, Track
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import OneByOne
from innerloop.params import Params, flattened, map_nested
from innerloop.randomness import Stream, generator_at

__all__ = ["Task", "batches_of", "begun", "inner_loop", "settings_of"]

Collected = dict[str, list[Value]]
"""What the steps gave, by what it is: values with an axis for steps, in order."""


@dataclass(frozen=True)
class Task:
    """What the graph is for.

    Attributes:
        support_x: an example of support inputs ``[S, ...]``.
        support_y: their targets.
        examples: the numbers of support examples and of queries, where they are fixed.
        inputs: the settings that are inputs of the graph.
        every_step: whether losses and predictions at every step are wanted.
        max_support: the largest number of support examples for which the order of mini-batches is stored.
        parameters: whether all parameters after the last step are wanted.
    """

    support_x: Tensor
    support_y: Tensor
    examples: tuple[int | None, int | None]
    inputs: tuple[str, ...]
    every_step: bool
    max_support: int
    parameters: bool = False

    @property
    def free(self) -> frozenset[str]:
        """The numbers of examples that are not fixed."""
        names = ("support_x", "query_x")
        return frozenset(name for name, count in zip(names, self.examples, strict=True) if count is None)


def begun(pieces: Pieces, task: Task) -> Writer:
    """A writer whose graph has its inputs and the learner's tensors."""
    graph, meta = Graph(), pieces.meta
    support, query = (count or axis for count, axis in zip(task.examples, ("support", "query"), strict=True))
    x, y = (_rows(tensor, task.examples[0]) for tensor in (task.support_x, task.support_y))
    q = _rows(task.support_x, task.examples[1])
    names = {
        name: graph.add_input(name, tensor.dtype, [length, *tensor.shape[1:]])
        for name, tensor, length in (("support_x", x, support), ("support_y", y, support), ("query_x", q, query))
    }
    settings = settings_of(pieces, task)
    given = {name: graph.add_input(name, settings[name].dtype, []) for name in settings}
    if "steps" in task.inputs:
        graph.add_input("steps", torch.int64, [])
    own: dict[str, Any] = {
        "constants": pieces.model.constants,
        "model": meta.model,
        "learned": meta.learned,
        "carried": meta.state,
    }
    stored = {kind: _stored(graph, kind, tensors) for kind, tensors in own.items()}
    task_x = {"query_x": q, "support_x": x, "support_y": y}
    example = cast("Tensors", {**own, "adapted": {}, "state": None, **task_x, "settings": settings})
    known = cast("Tensors", {**stored, "adapted": {}, "state": None, **names, "settings": given})
    return Writer(pieces, graph, example, known, task.free)


def inner_loop(writer: Writer, task: Task) -> dict[str, Value]:
    """Write the inner loop and the predictions after it. Return the outputs by what they are."""
    pieces, graph = writer.pieces, writer.graph
    iterates = _two_iterates(writer)
    steps: Size = Scalar("steps") if "steps" in task.inputs else pieces.adaptation.steps
    rows = _batches(writer, task)
    alike = _shapes(iterates[0]) == _shapes(iterates[-1]) and pieces.model.norm != "per_step"
    if alike:
        last, collected = _rolled(writer, steps, rows, writer.start(iterates[0]), task)
    elif not isinstance(steps, int):
        raise ExportError(
            "the number of steps cannot be an input, because the method or the norm mode has something of its own for "
            "each step; leave 'steps' out of inputs"
        )
    else:
        last, collected = _one_by_one(writer, steps, rows, task)
    k = pieces.adaptation.steps if pieces.model.norm == "per_step" else 0
    found = writer.predict(graph, last, k)
    if not task.every_step:
        return {**found, **(_parameters(writer, last) if task.parameters else {})}
    at_end = {name: _with_axis(graph, value) for name, value in found.items()}
    at_end["losses"] = writer.loss(graph, last, k)
    joined = {f"step_{name}": _joined(graph, collected.get(name, []), value) for name, value in at_end.items()}
    return {**found, **joined, **(_parameters(writer, last) if task.parameters else {})}


def _parameters(writer: Writer, last: Place) -> dict[str, Value]:
    """All parameters after the last step, those that are not adapted included."""
    graph = writer.graph
    found = {
        name: Value(graph.op("Identity", writer.names["model"][name]), tensor.dtype, tuple(tensor.shape))
        for name, tensor in last.like.fixed.items()
    }
    for name, tensor in last.like.adapted.items():
        own = graph.op("Squeeze", last.adapted[name], graph.ints([0]))
        found[name] = Value(own, tensor.dtype, tuple(tensor.shape[1:]))
    return {f"parameters.{name}": value for name, value in found.items()}


def settings_of(pieces: Pieces, task: Task) -> Params:
    """The settings that are inputs, with values that change nothing."""
    like = task.support_x
    settings: Params = {}
    if "inner_lr" in task.inputs:
        settings["inner_lr"] = like.new_tensor(getattr(pieces.adaptation.rule, "lr"))  # noqa: B009
    if "ways" in task.inputs:
        settings["ways"] = torch.tensor(2**31, device=like.device)
    return settings


def batches_of(pieces: Pieces, examples: int) -> Tensor:
    """The support examples ``[K, B]`` that each inner step takes, as a learner draws them."""
    adaptation = pieces.adaptation
    drawn = draw_batches(adaptation, 1, examples, generator_at(0, Stream.ADAPTING))
    return torch.arange(examples).expand(adaptation.steps, examples) if drawn is None else drawn[0]


def _rolled(writer: Writer, steps: Size, rows: str | None, first: Place, task: Task) -> tuple[Place, Collected]:
    """Write the inner loop as a loop. Return where it ends, and what it collected."""
    graph = writer.graph
    if steps == 0:
        return first, {}
    body = Graph(within=graph)
    k = Scalar(body.add_input(body.name("step"), torch.int64, []))
    go_on = body.add_input(body.name("go_on"), torch.bool, [])
    tensors = first.tensors
    here = first.named([body.add_input(body.name("at"), t.dtype, list(t.shape)) for t in tensors])
    after, collected = _step(writer, body, here, 0, k, rows, task)
    body.add_output(go_on, body.name("go_on"), torch.bool, [])
    for name, tensor in zip(after.names, tensors, strict=True):
        body.add_output(name, body.name("next"), tensor.dtype, list(tensor.shape))
    for value in collected.values():
        body.add_output(value.name, body.name("row"), value.dtype, value.shape)
    names = graph.loop(steps, first.names, body, len(collected))
    stacks = {
        kind: [Value(name, value.dtype, (None, *value.shape))]
        for (kind, value), name in zip(collected.items(), names[len(tensors) :], strict=True)
    }
    return first.named(names[: len(tensors)]), stacks


def _one_by_one(writer: Writer, steps: int, rows: str | None, task: Task) -> tuple[Place, Collected]:
    """Write every step for itself. Return where they lead, and what they collected."""
    graph, collected = writer.graph, Collected()
    iterates = iter(_loop(writer).unroll(Track.NOTHING))
    at = writer.start(next(iterates))
    for k in range(steps):
        after, found = _step(writer, graph, at, k, k, rows, task)
        for name, value in found.items():
            collected.setdefault(name, []).append(_with_axis(graph, value))
        at = replace(after, like=next(iterates))
    return at, collected


def _step(
    writer: Writer, graph: Graph, at: Place, k: int, number: Size, rows: str | None, task: Task
) -> tuple[Place, dict[str, Value]]:
    """Write a step, and the loss and the predictions before it if they are wanted."""
    batch = None
    if rows is not None:
        row = graph.op("Gather", rows, number if isinstance(number, Scalar) else graph.constant(number, torch.int64))
        x, y = writer.names["support_x"], writer.names["support_y"]
        batch = graph.op("Gather", x, row, axis=0), graph.op("Gather", y, row, axis=0)
    after, loss = writer.step(graph, at, k, batch)
    if not task.every_step:
        return after, {}
    of_all = loss if rows is None else writer.loss(graph, at, k)
    squeezed = replace(of_all, name=graph.op("Squeeze", of_all.name, graph.ints([0])), shape=())
    at_k = k if writer.pieces.model.norm == "per_step" else 0
    return after, {"losses": squeezed, **writer.predict(graph, at, at_k)}


def _batches(writer: Writer, task: Task) -> str | None:
    """The name of the indices ``[K, B]`` of the mini-batches; None if every step takes the whole support set."""
    pieces, graph, (fixed, _) = writer.pieces, writer.graph, task.examples
    if pieces.adaptation.batch_size is None or pieces.adaptation.steps == 0:
        return None
    if fixed is not None:
        return graph.constant(batches_of(pieces, fixed), torch.int64)
    width, steps = pieces.adaptation.batch_size, pieces.adaptation.steps
    table = np.zeros((task.max_support + 1, steps, width), dtype=np.int64)
    for count in range(1, task.max_support + 1):
        table[count] = batches_of(pieces, count).numpy()
    stored = graph.constant(table, torch.uint8 if task.max_support < 256 else torch.int32, name="batches")
    rows = graph.op("Gather", stored, graph.size(writer.names["support_x"], 0), axis=0)
    return graph.cast(rows, torch.int64)


def _two_iterates(writer: Writer) -> list[Iterate]:
    """The first two iterates of the example, or the first alone if there are no steps."""
    loop = _loop(writer)
    first = loop.begin(Track.NOTHING)
    return [first, loop.step(first, Track.NOTHING)] if writer.pieces.adaptation.steps else [first]


def _loop(writer: Writer) -> InnerLoop:
    """The inner loop of the example."""
    pieces, (x, y) = writer.pieces, (writer.example["support_x"], writer.example["support_y"])
    problem = Problem(pieces.model, pieces.loss_fn, OneByOne(), unused="ignore")
    batches = None if pieces.adaptation.batch_size is None else batches_of(pieces, len(x))[None]
    return InnerLoop(problem, pieces.adaptation, pieces.meta, Support(x[None], y[None], batches))


def _shapes(iterate: Iterate) -> list[tuple[torch.Size, torch.dtype]]:
    return [(t.shape, t.dtype) for t in flattened((iterate.adapted, iterate.state))]


def _stored(graph: Graph, kind: str, tensors: object) -> object:
    """Store nested tensors in the file. Return their names in place of them."""
    if isinstance(tensors, dict) and kind in ("model", "constants"):
        return {name: graph.constant(tensor, name=f"net.{name}") for name, tensor in tensors.items()}
    return map_nested(cast(Any, graph.constant), tensors)


def _with_axis(graph: Graph, value: Value) -> Value:
    """A value with a new first axis of length 1."""
    return Value(graph.op("Unsqueeze", value.name, graph.ints([0])), value.dtype, (1, *value.shape))


def _joined(graph: Graph, before: list[Value], last: Value) -> Value:
    """The values of all steps, ``[K + 1, ...]``."""
    name = graph.op("Concat", *[value.name for value in before], last.name, axis=0) if before else last.name
    return Value(name, last.dtype, (None, *last.shape[1:]))


def _rows(tensor: Tensor, count: int | None) -> Tensor:
    """As many rows of a tensor as wanted, from its beginning again where there are too few."""
    if count is None:
        return tensor
    return tensor[torch.arange(count, device=tensor.device) % len(tensor)]
