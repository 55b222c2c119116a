"""What the page must know before it can ask."""

from __future__ import annotations

from typing import Any

from innerloop.demo.contenders import Shown
from innerloop.demo.requests import Limits

__all__ = ["described"]


def described(shown: Shown, limits: Limits) -> dict[str, Any]:
    """The learners, the images that they take, and the limits, as JSON values."""
    return {
        "learners": [
            {"id": one.key, "title": one.title, "steps": one.steps, "facts": dict(one.facts)}
            for one in shown.contenders
        ],
        "channels": shown.channels,
        "size": shown.size,
        "drawings": shown.ink is not None,
        "ways": shown.ways,
        "shots": limits.shots,
        "name": limits.name,
    }
