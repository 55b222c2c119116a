"""Run an exported graph and compare its results with this library's."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from innerloop.export.errors import ExportError
from innerloop.export.graph import numpy_of
from innerloop.export.pieces import Pieces, Tensors
from innerloop.export.steps import Task, batches_of, settings_of
from innerloop.extras import extra
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.problem import Problem
from innerloop.inner.tasks import OneByOne
from innerloop.learner.files import write_atomically

__all__ = ["Exported", "checked", "compared", "count", "run_graph", "session_of", "written"]


@dataclass(frozen=True)
class Exported:
    """A graph that was written and checked.

    Attributes:
        file: the file.
        inputs: the names of the graph's inputs.
        outputs: the names of its outputs.
        difference: the largest difference between the graph's results and this library's that was measured; relative
            to the largest number of a result where this is above 1.
        nodes: the number of the graph's nodes, those of loops counted once.
        size: the size of the file, in bytes.
    """

    file: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    nodes: int
    size: int


def checked(model: Any, file: Path, pieces: Pieces, task: Task, tolerance: float) -> Exported:
    """Run a graph of an adaptation on several tasks, compare, and write it to a file.

    Raises:
        ExportError: ONNX Runtime refuses the graph, or the results differ by more than the tolerance.
    """
    data = model.SerializeToString()
    session = session_of(data)
    difference = 0.0
    cases = _numbers(task)
    for support, queries in cases:
        x, y = _rows(task.support_x, support), _rows(task.support_y, support)
        query_x = _rows(task.support_x.flip(0), queries)
        given = {"support_x": x, "support_y": y, "query_x": query_x}
        try:
            expected = _expected(pieces, task, x, y, query_x)
        except ValueError:
            if (support, queries) == cases[0]:
                raise
            continue  # the network itself refuses so few examples
        settings = settings_of(pieces, task)
        if "steps" in task.inputs:
            settings["steps"] = torch.tensor(pieces.adaptation.steps)
        found = run_graph(session, {**given, **settings})
        here = compared(found, expected)
        rounding = _rounding(pieces, task, (x, y, query_x), expected) if here > tolerance else 0.0
        if here > tolerance and rounding < here / 20:
            raise ExportError(
                f"the graph's results for {support} support examples and {queries} queries differ from this library's "
                f"by {here:.1e}, more than {tolerance:.0e}; a change of the weights in their last digit makes a "
                f"difference of {rounding:.1e}. Please report this with the method and the network"
            )
        difference = max(difference, here)
    return written(file, data, session, difference, count(model.graph))


def written(file: Path, data: bytes, session: Any, difference: float, nodes: int) -> Exported:
    """Write a checked graph to its file."""
    write_atomically(file, data)
    inputs, outputs = (tuple(v.name for v in values) for values in (session.get_inputs(), session.get_outputs()))
    return Exported(file, inputs, outputs, difference, nodes, len(data))


def session_of(data: bytes) -> Any:
    """A session of ONNX Runtime for a graph.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
        MissingExtraError: ONNX Runtime is not installed.
    """
    with extra("export"):
        runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, min(os.cpu_count() or 1, 4)
    try:
        return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime refuses the graph: {error}; please report this with the method") from error


def run_graph(session: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run a graph on tensors.

    Raises:
        ExportError: the graph fails.
    """
    names = [value.name for value in session.get_outputs()]
    try:
        arrays = session.run(names, {name: numpy_of(tensor) for name, tensor in given.items()})
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot run the graph: {error}; please report this with the method") from error
    return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def compared(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference between results, relative to the largest number of a result where this is above 1.

    Raises:
        ExportError: a result has another shape.
    """
    largest = 0.0
    for name, value in expected.items():
        result = found[name]
        if result.shape != value.shape:
            raise ExportError(f"the graph's {name} has the shape {list(result.shape)} and not {list(value.shape)}")
        same = (result == value) | (result.isnan() & value.isnan())
        apart = torch.where(same, 0.0, (result - value).abs().nan_to_num(nan=torch.inf))
        finite = value[value.isfinite()].abs()
        scale = max(1.0, float(finite.max())) if finite.numel() else 1.0
        largest = max(largest, float(apart.max()) / scale if apart.numel() else 0.0)
    return largest


def _rounding(pieces: Pieces, task: Task, given: tuple[Tensor, Tensor, Tensor], expected: dict[str, Tensor]) -> float:
    """How far this library's own results move where the initialisation changes in its last digit."""
    largest = 0.0
    for seed in range(TRIALS):
        generator = torch.Generator().manual_seed(seed)

        def moved(t: Tensor, generator: torch.Generator = generator) -> Tensor:
            up = torch.rand(t.shape, generator=generator).to(t.device) < 0.5
            return torch.nextafter(t.detach(), torch.where(up, torch.inf, -torch.inf).to(t))

        meta = replace(pieces.meta, model={name: moved(t) for name, t in pieces.meta.model.items()})
        largest = max(largest, compared(_expected(replace(pieces, meta=meta), task, *given), expected))
    return largest


TRIALS = 8
"""The number of changes in the last digit that are tried where the results of a graph differ."""


def _numbers(task: Task) -> list[tuple[int, int]]:
    """The numbers of support examples and queries to try."""
    own = len(task.support_x)
    supports = [task.examples[0]] if task.examples[0] is not None else [own, 1, min(2 * own + 1, task.max_support)]
    return [
        (support, queries if task.examples[1] is None else task.examples[1])
        for support, queries in zip(supports, (3, 1, 2), strict=False)
    ]


def _expected(pieces: Pieces, task: Task, x: Tensor, y: Tensor, query_x: Tensor) -> dict[str, Tensor]:
    """What the graph should give."""
    batches = None
    if pieces.adaptation.batch_size is not None and pieces.adaptation.steps:
        batches = batches_of(pieces, len(x))[None]
    problem = Problem(pieces.model, pieces.loss_fn, OneByOne(), unused="ignore")
    loop = InnerLoop(problem, pieces.adaptation, pieces.meta, Support(x[None], y[None], batches))
    rows: list[dict[str, Tensor]] = []
    for iterate in loop.unroll(Track.NOTHING):
        if not task.every_step and iterate.steps < pieces.adaptation.steps:
            continue
        of = Tensors(
            constants=pieces.model.constants,
            model=pieces.meta.model,
            learned=pieces.meta.learned,
            carried=pieces.meta.state,
            adapted=iterate.adapted,
            state=iterate.state,
            query_x=query_x,
            support_x=x,
            support_y=y,
            settings={},
        )
        rows.append({**pieces.predict(iterate.steps, of), "losses": pieces.loss(iterate.steps, of)[0]})
    last = {name: value for name, value in rows[-1].items() if name != "losses"}
    if task.parameters:
        of_all = {**iterate.fixed, **{name: tensor[0] for name, tensor in iterate.adapted.items()}}
        last |= {f"parameters.{name}": tensor for name, tensor in of_all.items()}
    if not task.every_step:
        return last
    return {**last, **{f"step_{name}": torch.stack([row[name] for row in rows]) for name in rows[0]}}


def _rows(tensor: Tensor, count: int) -> Tensor:
    return tensor[torch.arange(count, device=tensor.device) % len(tensor)]


def count(graph: Any) -> int:
    """The number of nodes, with those of the bodies of loops."""
    inner = [a.g for node in graph.node for a in node.attribute if a.HasField("g")]
    return len(graph.node) + sum(count(body) for body in inner)
