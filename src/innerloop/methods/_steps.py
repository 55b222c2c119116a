"""What the compositions share."""

from __future__ import annotations

from dataclasses import replace

from innerloop.inner.adaptation import Adaptation


def with_steps(adaptation: Adaptation, steps: int | None) -> Adaptation | None:
    """The inner loop on new tasks where only its number of steps differs; None if that is the same, too."""
    return None if steps is None or steps == adaptation.steps else replace(adaptation, steps=steps)
