"""The exact meta-gradient, never with the graph of more than one inner step."""

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
    r"""The exact meta-gradient, by going back through the inner loop one Hessian-vector product at a time.

    The inner loop runs without a graph. From its last iterate the gradient :math:`\lambda` of the query loss is then
    carried back to the start. For gradient descent this is

    .. math:: \lambda_k = \lambda_{k+1} - \alpha \nabla^2 L^{\mathrm{support}}(\theta_k) \, \lambda_{k+1},
              \qquad \lambda_K = \nabla L^{\mathrm{query}}(\theta_K)

    and for any other differentiable rule the vector-Jacobian product of its step, whose state is part of the iterate.
    What is not adapted and what the rule learns get their gradients on the way. The result is that of
    :func:`innerloop.unrolled` to rounding, with the same random numbers in layers such as dropout.

    Memory is that of the graph of one inner step or of the query loss, whichever is larger, and of the iterates that
    are kept, each as large as the adapted parameters and the rule's state: ``keep`` of them, and K / ``keep`` between
    two of those. Each inner step is computed three times and differentiated once, which takes 1.7 to 2.0 times as long
    as ``unrolled`` (``docs/performance.md``). With ``keep="all"`` a step is computed twice, and takes as long as with
    :func:`innerloop.checkpointed`.

    Where the graph of a step is many times larger than the parameters, as with large images or many examples,
    ``keep="all"`` costs little memory. Where it is not, ``checkpointed`` needs little more and is faster.

    Args:
        keep: how many iterates to keep on the way forth, spread evenly, or ``"all"``; about the square root of K by
            default.

    Raises:
        ValueError: fewer than one.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> method = il.maml(0.1, inner_steps=64, meta_gradient=il.mixed_mode())
        >>> grads, info = il.meta_gradient(net, method, il.Episode(x, y, x, y))
        >>> info.support_losses.shape
        torch.Size([4, 64])

    References:
        Kemaev et al.: Scalable Meta-Learning via Mixed-Mode Differentiation. ICML 2025. There the Hessian-vector
        product is forward over reverse; here it is reverse over reverse, for which every layer has derivatives.
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
