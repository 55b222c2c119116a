"""The exact meta-gradient, with the graph of one segment of the inner loop at a time."""

from __future__ import annotations

import math

from innerloop.metagrad.base import MetaGradient
from innerloop.metagrad.piecewise import Pieces, piecewise

__all__ = ["checkpointed"]


def checkpointed(segments: int | None = None) -> MetaGradient:
    r"""The exact meta-gradient, by going back through the inner loop one segment at a time.

    The inner loop runs without a graph, and only the iterates at the borders of the segments are kept. Then each
    segment, the last first, is computed once more with its graph and differentiated. The result is that of
    :func:`innerloop.unrolled` to rounding, with the same random numbers in layers such as dropout.

    Memory is that of the graph of one segment or of the query loss, whichever is larger, and of one iterate (adapted
    parameters and the rule's state) for each segment. It grows with the square root of the number of inner steps K.
    Each inner step is computed twice and differentiated once, which takes 1.4 to 1.6 times as long as ``unrolled``
    (``benchmarks/inner_steps.py``).

    Args:
        segments: the number of segments, at most K; about the square root of K by default. 1 has the graph of the
            whole inner loop, as ``unrolled`` does.

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
    if segments is not None and segments < 1:
        raise ValueError(f"segments is {segments}; there must be at least 1")

    def pieces(steps: int) -> Pieces:
        size = max(1, -(-steps // max(1, segments or math.isqrt(steps))))
        return Pieces(kept=size, graph=size)

    return piecewise(pieces)
