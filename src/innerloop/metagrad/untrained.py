"""No meta-gradient: zeros, for methods that learn nothing from other tasks."""

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
    """A meta-gradient of zeros, for a method that learns nothing from other tasks, such as training from scratch.

    The inner loop still runs and the queries are scored, as in any other method. So losses and accuracies are reported.

    Example:
        >>> import innerloop as il
        >>> il.untrained(), il.untrained().learns
        (Untrained(), False)
    """

    learns: ClassVar[bool] = False

    @property
    def needs_queries(self) -> bool:
        """False: it runs without query examples."""
        return False

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """Zeros, and what was observed."""
        _, info = Displacement("last")(loop, episode)
        return loop.meta.map(torch.zeros_like), info


untrained = Untrained
"""The public name of :class:`Untrained`."""
