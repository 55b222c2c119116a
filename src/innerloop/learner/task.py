"""A support set as the network takes it, made from the one that a person has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.data import Preprocessing
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.losses import LossFn
from innerloop.learner.inputs import is_prepared, read_inputs
from innerloop.learner.targets import Labels, Numbers, are_labels, read_labels, read_numbers
from innerloop.methods.base import METHODS

__all__ = ["Task", "read_task"]

Start = Callable[[Tensor, Adaptation], Tensor]
"""``(support inputs, adaptation) -> outputs``: the network's outputs before the first inner step."""


@dataclass(frozen=True)
class Task:
    """A task as the network takes it.

    Attributes:
        x: the support inputs ``[S, ...]``.
        y: class indices ``[S]``, or regression targets ``[S, ...]``.
        targets: the labels of the class indices, or the form of the regression targets.
        adaptation: how to adapt to this task.
    """

    x: Tensor
    y: Tensor
    targets: Labels | Numbers
    adaptation: Adaptation

    @property
    def classes(self) -> Tensor | None:
        """The class indices that occur; None for regression."""
        return self.y.unique() if isinstance(self.targets, Labels) else None


def read_task(
    x: Any,
    y: Any,
    adaptation: Adaptation,
    *,
    steps: int | None,
    ways: int | None,
    preprocessing: Preprocessing | None,
    loss_fn: LossFn,
    like: Tensor,
    start: Start,
) -> Task:
    """The task of a support set. See :meth:`innerloop.Learner.adapt` for the arguments and the errors.

    Args:
        x: the support inputs.
        y: their targets.
        adaptation: how the method adapts to a new task.
        steps: the number of inner steps; None for the method's.
        ways: the number of classes; None for those that there are.
        preprocessing: how inputs are prepared.
        loss_fn: the loss, which says whether targets are labels.
        like: a parameter of the network.
        start: computes the network's outputs before the first inner step.
    """
    for name, number, least in (("steps", steps, 0), ("ways", ways, 1)):
        if number is not None and (type(number) is not int or number < least):
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at least {least}")
    if steps is not None:
        adaptation = replace(adaptation, steps=steps)
    inputs = read_inputs(x, preprocessing, like)
    inputs = inputs.clone() if isinstance(x, Tensor) else inputs  # its owner may reuse it
    if len(inputs) != len(y) or len(inputs) == 0:
        raise ValueError(f"there are {len(inputs)} support inputs and {len(y)} targets; give one target for each input")
    y = y.to(inputs.device) if isinstance(y, Tensor) else y
    if are_labels(y, loss_fn):
        return _classification(inputs, y, adaptation, ways, start)
    if ways is not None:
        raise ValueError(f"ways is {ways}, and these targets are numbers, without classes; leave ways out")
    scale = None if preprocessing is None or (is_prepared(x) and is_prepared(y)) else preprocessing.target
    outputs = start(inputs, adaptation)
    numbers, values = read_numbers(y, outputs, scale)
    if loss_fn is F.mse_loss and values.shape != outputs.shape:
        raise ValueError(
            f"the targets have the shape {list(np.shape(y))} and the network's outputs {list(outputs.shape)}; give one "
            "target for each output"
        )
    return Task(inputs, values, numbers, adaptation)


def _classification(x: Tensor, y: Any, adaptation: Adaptation, ways: int | None, start: Start) -> Task:
    own = start(x, adaptation).shape[-1]  # as many as the head has outputs, which the start may have replaced
    if _are_indices(y, places := ways or own):
        # Every class of the task has its place, also one that is not shown.
        labels, indices, wanted = Labels(torch.arange(places, device=y.device)), y.long(), places
    else:
        labels, indices = read_labels(y)
        wanted = ways or len(labels)
    if wanted < len(labels):
        raise ValueError(f"ways is {wanted}, and the support set has {len(labels)} classes; give at least as many")
    if getattr(adaptation.start, "any_ways", False):
        if wanted != own:
            adaptation = replace(adaptation, start=replace(cast(Any, adaptation.start), ways=wanted))
    elif wanted > own:
        raise ValueError(
            f"the task has {wanted} classes, and this learner was trained for {own} ways: its method keeps the head of "
            f"meta-training. Give at most {own} classes, or train with more ways. A learner of "
            f"{_methods_of_any_ways()} takes any number of classes"
        )
    return Task(x, indices.to(x.device), labels, adaptation)


def _are_indices(y: Any, ways: int) -> bool:
    """Whether labels are class indices: a tensor of whole numbers from 0 to ways - 1."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.dtype == torch.bool:
        return False
    return int(y.min()) >= 0 and int(y.max()) < ways


def _methods_of_any_ways() -> str:
    """The names of the methods that make a head for each task."""
    names = [name for name, make in METHODS.items() if getattr(make().test.start, "any_ways", False)]
    return f"{', '.join(names[:-1])} or {names[-1]}"
