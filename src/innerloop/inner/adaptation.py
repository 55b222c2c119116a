"""The record that says how a task is adapted to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.inner.losses import InnerLoss, of_outputs
from innerloop.inner.objectives import Objective, last_step
from innerloop.inner.starts import Start, initialisation
from innerloop.parts import Part
from innerloop.rules.base import Rule, check_rule

__all__ = ["Adaptation", "draw_batches"]


@dataclass(frozen=True, repr=False)
class Adaptation(Part):
    """How a task is adapted to.

    Args:
        rule: the update rule.
        steps: the number of inner steps K; 0 leaves the start as it is.
        batch_size: examples in the mini-batch of one inner step; None takes the whole support set each time.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        start: where the inner loop starts from.
        inner_loss: what the inner loop minimises; the loss of the module's outputs by default.
        objective: which iterates the meta-objective scores.
        carry_state: whether the rule's state goes on from one meta-batch to the next, as Reptile's Adam does.

    Raises:
        ValueError: what is no rule, a negative number of steps, or an empty mini-batch.
    """

    rule: Rule
    steps: int
    batch_size: int | None = None
    adapt: str = "*"
    start: Start = initialisation
    inner_loss: InnerLoss = of_outputs
    objective: Objective = last_step
    carry_state: bool = False

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.steps < 0:
            raise ValueError(f"the number of inner steps is {self.steps}; it must be 0 or more")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"the inner batch size is {self.batch_size}; it must be 1 or more, or None for all")


def draw_batches(
    adaptation: Adaptation,
    tasks: int,
    examples: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor | None:
    """Which support examples each inner step of each task looks at.

    Each task goes through its support set in a new random order on every pass; a mini-batch may span two
    passes, as in the original code of Reptile.

    Args:
        adaptation: its steps and batch size are used.
        tasks: the number of tasks T.
        examples: support examples of a task, S.
        generator: the source of randomness, on ``device``; torch's global one by default.
        device: where the indices are to be.

    Returns:
        Indices ``[T, K, batch_size]``, or None where every step takes the whole set.

    Example:
        >>> from innerloop.rules import sgd
        >>> adaptation = Adaptation(sgd(0.1), steps=2, batch_size=2)
        >>> batches = draw_batches(adaptation, 1, 4, torch.Generator().manual_seed(0))
        >>> sorted(batches.flatten().tolist())
        [0, 1, 2, 3]
    """
    size, steps = adaptation.batch_size, adaptation.steps
    if size is None or size == examples or steps == 0:
        return None
    passes = -(-steps * size // examples)
    noise = torch.rand(tasks, passes, examples, generator=generator, device=device)
    return noise.argsort(-1).flatten(1)[:, : steps * size].reshape(tasks, steps, size)
