"""A function that several methods share."""

from __future__ import annotations

from dataclasses import replace

from innerloop.inner.adaptation import Adaptation


def with_steps(adaptation: Adaptation, steps: int | None) -> Adaptation | None:
    """The inner loop for new tasks if only its number of steps differs; None if that number is the same, too."""
    return None if steps is None or steps == adaptation.steps else replace(adaptation, steps=steps)
