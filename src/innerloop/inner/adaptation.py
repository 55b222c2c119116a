"""``Adaptation``: the settings of the inner loop in one record."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.inner.losses import InnerLoss, of_outputs
from innerloop.inner.objectives import Objective, last_step
from innerloop.inner.starts import Start, initialisation
from innerloop.inner.uphill import GradientPoint
from innerloop.parts import Part
from innerloop.rules.base import Rule, check_rule

__all__ = ["Adaptation", "draw_batches"]


@dataclass(frozen=True, repr=False)
class Adaptation(Part):
    """How the inner loop adapts to a task: its rule, its steps, its start, and what it minimises.

    Args:
        rule: the update rule.
        steps: the number of inner steps K. With 0 the parameters stay at the start.
        batch_size: the number of examples in the mini-batch of one inner step. None takes the whole support set in
            every step.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        start: the parameters that the inner loop starts from.
        inner_loss: the loss that the inner loop minimises; by default the loss of the module's outputs.
        objective: the iterates that the meta-objective scores, and their weights.
        gradient_at: the point at which each step takes its gradient, such as :class:`innerloop.inner.uphill.Uphill`.
            None means the iterate itself. The step always starts from the iterate.
        carry_state: whether the rule's state is carried from one meta-batch to the next, as Reptile's Adam does.

    Raises:
        ValueError: an object that is no rule, a negative number of steps, or an empty mini-batch.
    """

    rule: Rule
    steps: int
    batch_size: int | None = None
    adapt: str = "*"
    start: Start = initialisation
    inner_loss: InnerLoss = of_outputs
    objective: Objective = last_step
    carry_state: bool = False
    gradient_at: GradientPoint | None = None

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
    """Draw the mini-batches: the support examples that each inner step of each task uses.

    Each task goes through its support set in a new random order on every pass. A mini-batch may span two passes, as in
    the original code of Reptile.

    Args:
        adaptation: its ``steps`` and ``batch_size`` are used.
        tasks: the number of tasks T.
        examples: the number of support examples of a task, S.
        generator: the source of randomness, on ``device``; by default torch's global generator.
        device: the device of the indices.

    Returns:
        Indices ``[T, K, batch_size]``, or None if every step takes the whole support set.

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
