"""What a learner predicts before, during and after the inner loop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import InnerLoop, Track
from innerloop.inner.starts import NewHead, Prototypes
from innerloop.params import Params

__all__ = ["Trace", "for_ways", "traced"]


@dataclass(frozen=True)
class Trace:
    """The inner loop of one task, step by step. :meth:`innerloop.Learner.trace` makes it.

    Attributes:
        support_loss: the loss on the support set after 0 to K steps, ``[K + 1]``.
        outputs: the network's outputs for the queries after 0 to K steps, ``[K + 1, Q, ...]``.
        params: all parameters by name, after the last step.
    """

    support_loss: Tensor
    outputs: Tensor
    params: Params

    @property
    def probabilities(self) -> Tensor:
        """The class probabilities of the queries after 0 to K steps, ``[K + 1, Q, ways]``."""
        return self.outputs.softmax(-1)


def traced(loop: InnerLoop, queries: Tensor) -> Trace:
    """Run the inner loop of one task, and predict after every step. See :meth:`innerloop.Learner.trace`."""
    x, y, problem = loop.support.x[0], loop.support.y[0], loop.problem
    losses, outputs = [], []
    for iterate in loop.unroll(Track.NOTHING):
        params = {**iterate.fixed, **{name: t[0] for name, t in iterate.adapted.items()}}
        model = problem.model.at(iterate.steps)
        with torch.no_grad():
            losses.append(loop.adaptation.inner_loss(model, problem.loss_fn, params, x, y))
            outputs.append(model.predict(params, queries, x, looped=True))
    return Trace(torch.stack(losses), torch.stack(outputs), {name: t.clone() for name, t in params.items()})


def for_ways(adaptation: Adaptation, ways: int | None) -> Adaptation:
    """The adaptation for a task of this many classes. None leaves it as it is.

    Raises:
        ValueError: the start keeps the head of meta-training, which has a fixed number of outputs.
    """
    if ways is None:
        return adaptation
    if not isinstance(adaptation.start, NewHead | Prototypes):
        raise ValueError(
            f"ways is {ways}, and the start {adaptation.start} keeps the head of meta-training with its number of "
            "outputs: leave ways out, or train with a start that makes a head for each task, such as NewHead() or "
            "Prototypes()"
        )
    return replace(adaptation, start=replace(adaptation.start, ways=ways))
