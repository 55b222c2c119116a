"""Adaptation itself as one ONNX graph, with the gradient steps inside."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from innerloop.export.check import Exported, checked
from innerloop.export.errors import ExportError
from innerloop.export.pieces import Pieces, with_rate
from innerloop.export.steps import Task, begun, inner_loop
from innerloop.learner.learner import Learner

__all__ = ["Setting", "adaptation"]

Setting = Literal["steps", "inner_lr", "ways"]
"""A setting that a graph may take as an input."""


def adaptation(
    learner: Learner,
    file: str | Path,
    x: Any,
    y: Any,
    *,
    steps: int | None = None,
    ways: int | None = None,
    inner_lr: float | None = None,
    every_step: bool = False,
    parameters: bool = False,
    inputs: Collection[Setting] = (),
    examples: tuple[int | None, int | None] = (None, None),
    max_support: int = 100,
    tolerance: float = 1e-4,
) -> Exported:
    """Write a learner's adaptation as one ONNX graph: support set in, predictions out, gradient steps inside.

    The graph needs no Python and no automatic differentiation. It runs wherever ONNX Runtime does: on a phone, in a
    browser, in C++. After it is written, it runs here on several tasks, and its results are compared with this
    library's.

    Inputs: ``support_x`` ``[S, ...]``; ``support_y``, class indices ``[S]`` (int64) or numbers to predict
    ``[S, ...]``; ``query_x`` ``[Q, ...]``; and the settings in ``inputs``.

    Outputs for classes: ``logits`` and ``probabilities``, each ``[Q, ways]``. A class without support examples has
    probability 0. Output for numbers: ``outputs`` ``[Q, ...]``. With ``every_step`` also ``step_losses`` ``[K + 1]``,
    the inner loss on the support set before each step and after the last, and the predictions at the same iterates,
    ``[K + 1, Q, ...]``: ``step_logits`` and ``step_probabilities``, or ``step_outputs``. With ``parameters`` also each
    parameter of the network after the last step, as ``parameters.NAME``.

    Args:
        learner: the learner. Its mode of batch norm is the graph's.
        file: the file to write.
        x: the support inputs of an example task, as for :meth:`innerloop.Learner.adapt`. The graph takes inputs of the
            same shape, prepared as the learner's preprocessing prepares these.
        y: their targets. The graph takes class indices in place of other labels.
        steps: the number of inner steps K. None means the learner's own.
        ways: the number of classes, for methods that make a head for each task. None means those of the example.
        inner_lr: the inner learning rate. None means the learner's own.
        every_step: whether to give losses and predictions at every step.
        parameters: whether to give the network's parameters after the last step.
        inputs: settings that become inputs of the graph. ``steps`` (int64): the number of steps. ``inner_lr``
            (float32): the inner learning rate. ``ways`` (int64): the number of classes of the task. Only that many
            logits then take part, in adapting as well; the others are minus infinity. Without it, all logits take
            part, as they do in :meth:`innerloop.Learner.adapt`.
        examples: the numbers of support examples and of queries, if they are to be fixed. None leaves one free.
        max_support: the largest number of support examples, for methods whose inner steps take mini-batches. Their
            order is stored for each number of examples.
        tolerance: how far the graph's results may be from this library's. A difference counts relative to the largest
            number of that result where this is above 1.

    Returns:
        The file, its inputs and outputs, and the largest difference that was measured.

    Raises:
        ExportError: the method or the network cannot be exported, a setting does not fit, the results differ, or a
            library is missing.

    Example:
        >>> import tempfile, torch, innerloop as il
        >>> learner = il.Learner(il.nets.mlp(2, 3, (8,)), il.maml(inner_lr=0.1, inner_steps=2))
        >>> x, y = torch.randn(6, 2), torch.arange(6) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = il.export.adaptation(learner, folder + "/adapt.onnx", x, y)
        >>> exported.inputs, exported.outputs, exported.difference < 1e-4
        (('support_x', 'support_y', 'query_x'), ('logits', 'probabilities'), True)
    """
    given = learner._task(x, y, steps, ways)
    adapting = given.adaptation if inner_lr is None else with_rate(given.adaptation, inner_lr, learner._meta)
    pieces = Pieces(learner._model, learner._meta, adapting, learner.loss_fn)
    _check(pieces, given.y, inputs)
    task = Task(given.x, given.y, examples, tuple(inputs), every_step, max_support, parameters)
    writer = begun(pieces, task)
    for name, value in inner_loop(writer, task).items():
        writer.graph.add_output(value.name, name, value.dtype, value.shape)
    about = f"Adapts to a task and predicts its queries, with batch norm {learner.norm}: {adapting!r}"
    model = writer.graph.model(about, {"adaptation": repr(adapting), "norm": learner.norm})
    return checked(model, Path(file), pieces, task, tolerance)


def _check(pieces: Pieces, support_y: Tensor, inputs: Collection[str]) -> None:
    """Check the settings that are to be inputs."""
    if unknown := [name for name in inputs if name not in get_args(Setting)]:
        raise ExportError(f"inputs holds {unknown[0]!r}; choose from {', '.join(get_args(Setting))}")
    if "steps" in inputs and pieces.adaptation.batch_size is not None:
        raise ExportError(
            "the number of steps cannot be an input, because the inner steps take mini-batches whose order depends on "
            "it; leave 'steps' out of inputs, or choose a method with test_batch=None"
        )
    if "inner_lr" in inputs:
        with_rate(pieces.adaptation, 0.0, pieces.meta)
    if "ways" in inputs and (support_y.is_floating_point() or pieces.loss_fn is not F.cross_entropy):
        raise ExportError(
            "the number of classes can be an input only with class indices as targets and the cross-entropy as loss; "
            "leave 'ways' out of inputs"
        )
