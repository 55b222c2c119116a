"""No gradient at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop
from innerloop.inner.meta import Meta
from innerloop.metagrad.base import Info, MetaGradient
from innerloop.metagrad.displacement import Displacement

__all__ = ["Untrained", "untrained"]


@dataclass(frozen=True, repr=False)
class Untrained(MetaGradient):
    """Zeros, for a method that learns nothing from other tasks, such as training from scratch.

    The inner loop runs and the queries are scored as in any other method, so that there is something to observe.

    Example:
        >>> import innerloop as il
        >>> il.untrained(), il.untrained().learns
        (Untrained(), False)
    """

    learns: ClassVar[bool] = False

    @property
    def needs_queries(self) -> bool:
        """Never."""
        return False

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """Zeros, and what was observed."""
        _, info = Displacement("last")(loop, episode)
        return loop.meta.map(torch.zeros_like), info


untrained = Untrained
"""The public name of :class:`Untrained`."""
