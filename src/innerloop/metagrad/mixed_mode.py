"""The exact meta-gradient with the graph of one inner step in memory at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop
from innerloop.inner.meta import Meta
from innerloop.metagrad._adjoint import Pieces, differentiated_piecewise
from innerloop.metagrad.base import Info, MetaGradient

__all__ = ["MixedMode", "mixed_mode"]


@dataclass(frozen=True, repr=False)
class MixedMode(MetaGradient):
    r"""The exact meta-gradient, by one Hessian-vector product for each inner step.

    The forward sweep runs the inner loop without a graph. The reverse sweep takes the gradient :math:`\lambda` of the
    query loss from the last iterate back to the start. For gradient descent this is

    .. math:: \lambda_k = \lambda_{k+1} - \alpha \nabla^2 L^{\mathrm{support}}(\theta_k) \, \lambda_{k+1},
              \qquad \lambda_K = \nabla L^{\mathrm{query}}(\theta_K)

    For any other differentiable rule it is the vector-Jacobian product of the rule's step, with the rule's state as
    part of the iterate. Fixed parameters and whatever the rule learns get their gradients in the same sweep. Layers
    such as dropout draw the same random numbers each time. The result equals that of :func:`innerloop.unrolled` up to
    rounding.

    Memory holds one graph and some iterates. The graph is that of one inner step or of the query loss, whichever is
    larger. An iterate is as large as the adapted parameters and the rule's state. The forward sweep keeps ``keep`` of
    them. The reverse sweep keeps K / ``keep`` more, between two of those. Each inner step is computed three times and
    differentiated once. That takes 1.7 to 2.0 times as long as ``unrolled`` (``docs/performance.md``). With
    ``keep="all"`` a step is computed twice, which takes as long as :func:`innerloop.checkpointed`.

    If the graph of a step is many times larger than the parameters, as with large images or many examples,
    ``keep="all"`` costs little memory. Otherwise ``checkpointed`` needs little more memory and is faster.

    Args:
        keep: how many iterates the forward sweep keeps, evenly spaced, or ``"all"``; by default about the square root
            of K.

    Raises:
        ValueError: ``keep`` is below 1.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> method = il.maml(0.1, inner_steps=64, meta_gradient=il.mixed_mode())
        >>> grads, info = il.meta_gradient(net, method, il.Episode(x, y, x, y))
        >>> info.support_losses.shape
        torch.Size([4, 64])

    References:
        Kemaev et al.: Scalable Meta-Learning via Mixed-Mode Differentiation. ICML 2025. There the Hessian-vector
        product is forward over reverse. Here it is reverse over reverse, because every layer has derivatives for that.
        Griewank, Walther: Evaluating Derivatives. SIAM 2008, chapter 12, on keeping some of the iterates.
    """

    keep: int | Literal["all"] | None = None
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.keep != "all" and self.keep is not None and self.keep < 1:
            raise ValueError(f"keep is {self.keep}; it must be a number of iterates of at least 1, or 'all'")

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        steps = loop.adaptation.steps
        count = steps if self.keep == "all" else self.keep or math.isqrt(steps)
        pieces = Pieces(kept=max(1, -(-steps // max(1, count))), graph=1)
        return differentiated_piecewise(loop, episode, pieces)


mixed_mode = MixedMode
"""The public name of :class:`MixedMode`."""
