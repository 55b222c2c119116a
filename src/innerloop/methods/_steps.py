"""What the compositions share."""

from __future__ import annotations

from dataclasses import replace

from innerloop.inner.adaptation import Adaptation


def with_steps(adaptation: Adaptation, steps: int | None) -> Adaptation:
    """The same with another number of inner steps, if one is given."""
    return adaptation if steps is None else replace(adaptation, steps=steps)
