"""What a learner predicts before, during and after the inner loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.inner.loop import InnerLoop, Track
from innerloop.params import Params

__all__ = ["Trace", "traced"]


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
    steps_see_all, losses, outputs = loop.support.batches is None, [], []
    for iterate in loop.unroll(Track.NOTHING):
        if steps_see_all and iterate.support_losses is not None:
            losses.append(iterate.support_losses[0])  # the step that led here began with the loss before it
        params = {**iterate.fixed, **{name: t[0] for name, t in iterate.adapted.items()}}
        model = problem.model.at(iterate.steps)
        with torch.no_grad():
            if not steps_see_all or iterate.steps == loop.adaptation.steps:
                losses.append(loop.adaptation.inner_loss(model, problem.loss_fn, params, x, y))
            outputs.append(model.predict(params, queries, x, looped=True))
    return Trace(torch.stack(losses), torch.stack(outputs), {name: t.clone() for name, t in params.items()})
