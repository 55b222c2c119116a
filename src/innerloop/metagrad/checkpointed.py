"""The exact meta-gradient with checkpoints: only one segment of the inner loop has its graph in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop
from innerloop.inner.meta import Meta
from innerloop.metagrad._adjoint import Pieces, differentiated_piecewise
from innerloop.metagrad.base import Info, MetaGradient

__all__ = ["Checkpointed", "checkpointed"]

WHOLE = 4
"""The number of inner steps up to which there is one segment by default."""


@dataclass(frozen=True, repr=False)
class Checkpointed(MetaGradient):
    r"""The exact meta-gradient, by back-propagation through one segment of the inner loop at a time.

    The forward sweep runs the inner loop without a graph. It keeps only the iterates at the borders of the segments.
    The reverse sweep takes the segments from the last to the first. It computes each segment once more with its graph,
    and differentiates it. Layers such as dropout draw the same random numbers both times. The result equals that of
    :func:`innerloop.unrolled` up to rounding.

    Let K be the number of inner steps. By default a segment has 4 steps, or half the square root of K from K = 65 on.
    Up to 4 steps are one segment, as in ``unrolled``.

    Memory holds one iterate (the adapted parameters and the rule's state) for each segment, and one graph. The graph is
    either one segment's, or the query loss's together with all but one of the last segment's steps, whichever is
    larger. The forward sweep keeps the graph of these last steps, so they alone are computed only once. With 64 steps
    this took 1.3
    to 1.5 times as long as ``unrolled``. ``docs/performance.md`` has time and memory from 1 to 128 steps.

    Args:
        segments: the number of segments, at most K. With 1 the graph of the whole inner loop is in memory. K needs the
            least memory if the graph of a step is much larger than an iterate.

    Raises:
        ValueError: fewer than one segment.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> method = il.maml(0.1, inner_steps=64, meta_gradient=il.checkpointed())
        >>> grads, info = il.meta_gradient(net, method, il.Episode(x, y, x, y))
        >>> info.support_losses.shape
        torch.Size([4, 64])

    References:
        Chen, Xu, Zhang, Guestrin: Training Deep Nets with Sublinear Memory Cost. 2016, section 4.
        Baranchuk: Memory-efficient MAML. 2019, https://github.com/dbaranchuk/memory-efficient-maml.
    """

    segments: int | None = None
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.segments is not None and self.segments < 1:
            raise ValueError(f"segments is {self.segments}; there must be at least 1")

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        steps = loop.adaptation.steps
        size = -(-steps // self.segments) if self.segments else max(WHOLE, math.ceil(math.sqrt(steps) / 2))
        pieces = Pieces(kept=max(1, size), graph=max(1, size), last=steps if steps <= size else size - 1)
        return differentiated_piecewise(loop, episode, pieces)


checkpointed = Checkpointed
"""The public name of :class:`Checkpointed`."""
