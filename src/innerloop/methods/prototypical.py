"""Prototypical networks: a start, and no steps."""

from __future__ import annotations

from dataclasses import replace

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.starts import prototypes
from innerloop.metagrad import unrolled
from innerloop.methods._experiments import PHOTOGRAPHS, PHOTOGRAPHS_5S
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["prototypical"]


@registered(
    title="Prototypical networks",
    tasks="more_ways",
    like="maml",
    recipes={
        # An episode at a time, of more classes than in test.
        "omniglot-5w1s omniglot-20w1s": {
            "train_ways": 60,
            "queries": 5,
            "tasks": 1,
            "iterations": 20_000,
            "outer_schedule": "halving",
        },
        "omniglot-lake": {},
        # The paper's settings for mini-ImageNet.
        PHOTOGRAPHS: {
            "train_ways": 30,
            "tasks": 1,
            "iterations": 20_000,
            "outer_schedule": "halving",
            "filters": 64,
        },
        PHOTOGRAPHS_5S: {"train_ways": 20},
    },
)
def prototypical(*, ways: int | None = None, head: str = "@last") -> Method:
    r"""Prototypical networks: a query belongs to the class whose mean support feature is the nearest.

    .. math:: \mu_c = \mathrm{mean}_{y_j = c} f_\theta(x_j), \qquad
              p(y = c \mid x) \propto \exp(-\lVert f_\theta(x) - \mu_c \rVert^2)

    This is :func:`protomaml` without inner steps: the prototypes are a linear head. A task of meta-training has as many
    classes as the network's own head has outputs. In the paper that is more than in test. It is for classification
    only.

    Args:
        ways: classes of a new task. None means as many as the network's head has outputs.
        head: the name of the linear layer that is the head. Its inputs are the features. The last layer by default.

    Raises:
        ValueError: less than one class.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = il.nets.mlp(3, 60, (4,)), torch.randn(6, 3), torch.arange(6) % 2
        >>> il.adapt(net, il.prototypical(ways=2), x, y)["2.weight"].shape
        torch.Size([2, 4])

    References:
        Snell, Swersky, Zemel: Prototypical Networks for Few-shot Learning. NeurIPS 2017, sections 2.2 and 2.4.
    """
    only = head if head == "@last" else f"{head}.*"
    adaptation = Adaptation(sgd(0.0), 0, adapt=only, start=prototypes(head))  # a rule that is never applied
    return Method(adaptation, unrolled(), replace(adaptation, start=prototypes(head, ways)))
