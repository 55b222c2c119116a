"""``Writer``: writes the parts of a learner's adaptation into graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from innerloop.export import convolutions, eigen, elementwise, indexing, layers, shapes, sums
from innerloop.export.errors import ExportError
from innerloop.export.graph import Graph
from innerloop.export.pieces import Pieces, Tensors
from innerloop.export.trace import Recorded, record
from innerloop.export.translate import Value, translate
from innerloop.inner.loop import Iterate
from innerloop.params import flattened, map_nested

__all__ = ["Place", "Writer", "each_query"]

FAMILIES = (convolutions, eigen, elementwise, indexing, layers, shapes, sums)
"""The modules that hold the translations of operators."""


@dataclass(frozen=True)
class Place:
    """An iterate of the inner loop within a graph.

    Attributes:
        like: an iterate of the same shapes.
        adapted: the names of the adapted parameters in the graph, by their own names.
        state: the names of the rule's state.
    """

    like: Iterate
    adapted: dict[str, str]
    state: Any

    @property
    def names(self) -> list[str]:
        """The names of the adapted parameters and of the state, in one list."""
        return cast("list[str]", flattened((self.adapted, self.state)))

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of :attr:`like` in the same order."""
        return flattened((self.like.adapted, self.like.state))

    def named(self, names: list[str]) -> Place:
        """The same iterate under other names."""
        rest = iter(names)
        adapted, state = map_nested(cast(Any, lambda _: next(rest)), (self.adapted, self.state))
        return replace(self, adapted=adapted, state=state)


@dataclass
class Writer:
    """Writes starts, steps and predictions. Each part is recorded once and may be written several times.

    Args:
        pieces: the parts of the learner.
        graph: the outermost graph.
        example: all tensors, with an example of a task. Their shapes and types are used.
        names: the names of all tensors in the graph. Those of an iterate are not used.
        free: the numbers of examples that are not fixed: ``support_x`` and ``query_x``.
    """

    pieces: Pieces
    graph: Graph
    example: Tensors
    names: Tensors
    free: frozenset[str]
    _recorded: dict[tuple[str, int], Recorded] = field(default_factory=dict)

    def start(self, like: Iterate) -> Place:
        """Write the start of the inner loop. ``like`` is an iterate of the same shapes."""
        adapted, state = self._write(self.pieces.start, 0, None, self.graph)
        return Place(like, _named(adapted), _named(state))

    def step(self, graph: Graph, at: Place, k: int, batch: tuple[str, str] | None) -> tuple[Place, Value]:
        """Write step ``k``, which leads to another place. Return it, and the inner loss ``[1]`` before the step.

        ``batch`` are the names of the inputs and targets that the step takes; None for the whole support set.
        """
        adapted, state, loss = self._write(self.pieces.step, k, at, graph, batch=batch)
        return Place(at.like, _named(adapted), _named(state)), loss

    def loss(self, graph: Graph, at: Place, k: int) -> Value:
        """Write the inner loss ``[1]`` of the iterate θ_k on the whole support set."""
        value: Value = self._write(self.pieces.loss, k, at, graph)
        return value

    def predict(self, graph: Graph, at: Place, k: int) -> dict[str, Value]:
        """Write the predictions of the iterate θ_k for all queries, ``[Q, ...]``. Return them by what they are."""
        found: dict[str, Value]
        if not self.pieces.one_query_at_a_time:
            found = self._write(self.pieces.predict, k, at, graph)
            return found
        write = partial(self._write, self.pieces.predict, k, at)
        return each_query(graph, self.names["query_x"], lambda body, query: write(body, query=query))

    def _write(
        self,
        piece: Callable[[int, Tensors], Any],
        k: int,
        at: Place | None,
        graph: Graph,
        *,
        batch: tuple[str, str] | None = None,
        query: str | None = None,
    ) -> Any:
        """Write a part at a place. ``batch`` and ``query`` take the places of the support set and the queries."""
        example, names, what = self.example.copy(), self.names.copy(), WHAT[piece.__name__]
        free = {place: axis for place, axis in AXES.items() if axis in self.free}
        if at is not None:
            example["adapted"], example["state"] = at.like.adapted, at.like.state
            names["adapted"], names["state"] = at.adapted, at.state
        if batch is not None:
            size = self.pieces.adaptation.batch_size
            if size is None:
                raise ExportError("the inner loop takes no mini-batches")
            names["support_x"], names["support_y"] = batch
            example["support_x"], example["support_y"] = (
                _rows(self.example[n], size) for n in ("support_x", "support_y")
            )
            free = {place: axis for place, axis in free.items() if axis != "support_x"}
        if query is not None:
            names["query_x"], example["query_x"] = query, _rows(example["query_x"], 1)
            free.pop("query_x", None)
        key = (piece.__name__, k)
        if key not in self._recorded:
            keys = list(example)

            def fn(*values: Any) -> Any:
                return piece(k, cast("Tensors", dict(zip(keys, values, strict=True))))

            places = {keys.index(place): axis for place, axis in free.items()}
            self._recorded[key] = record(fn, tuple(example.values()), places, what)
        given = cast("list[str]", flattened(tuple(names[kind] for kind in example)))  # type: ignore[literal-required]
        return translate(self._recorded[key], given, graph, what)


AXES = {"support_x": "support_x", "support_y": "support_x", "query_x": "query_x"}
"""The number of examples that is the length of the first axis of each of these tensors."""

WHAT = {
    "start": "the start of the inner loop",
    "step": "an inner step",
    "loss": "the inner loss",
    "predict": "the prediction",
}


def each_query(graph: Graph, queries: str, write: Callable[[Graph, str], dict[str, Value]]) -> dict[str, Value]:
    """Write a loop over queries ``[Q, ...]``. ``write`` writes the predictions for one of them, ``[1, ...]``."""
    body = Graph(within=graph)
    index = body.add_input(body.name("query"), torch.int64, [])
    go_on = body.add_input(body.name("go_on"), torch.bool, [])
    one = body.op("Unsqueeze", body.op("Gather", queries, index, axis=0), body.ints([0]))
    found = write(body, one)
    body.add_output(go_on, body.name("go_on"), torch.bool, [])
    for value in found.values():
        row = body.op("Squeeze", value.name, body.ints([0]))
        body.add_output(row, body.name("row"), value.dtype, value.shape[1:])
    names = graph.loop(graph.size(queries, 0), [], body, len(found))
    return {
        kind: Value(name, value.dtype, (None, *value.shape[1:]))
        for (kind, value), name in zip(found.items(), names, strict=True)
    }


def _named(nested: Any) -> Any:
    """The names of nested values. None stays None."""
    return map_nested(lambda value: value.name, nested)


def _rows(tensor: Tensor, count: int) -> Tensor:
    """A tensor like this one, with another number of rows."""
    return tensor.new_zeros(count, *tensor.shape[1:])
