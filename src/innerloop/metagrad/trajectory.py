"""WarpGrad's meta-gradient: it scores every single inner step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop, Iterate, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad.base import Info, MetaGradient, pulled_back, scored_iterates
from innerloop.params import detached, leaves, map_nested

__all__ = ["Trajectory", "trajectory"]


@dataclass(frozen=True, repr=False)
class Trajectory(MetaGradient):
    r"""Train the parameters that are not adapted so that each single inner step lowers the query loss (WarpGrad).

    .. math:: \nabla_\phi \sum_i \frac{1}{K} \sum_{k=0}^{K-1} L_i^{\mathrm{query}}\big(
              \bar\theta_{i,k} - \alpha \nabla L_i^{\mathrm{support}}(\bar\theta_{i,k}; \phi); \phi\big)

    Here φ are the parameters that are not adapted, such as warp layers. The iterates :math:`\bar\theta_{i,k}` and the
    rule's state there are constants. So nothing is differentiated through more than one step, and memory does not grow
    with the number of steps. Another estimator, which runs an inner loop of its own, gives the gradients of the adapted
    parameters and of whatever the rule learns. Without inner steps it gives all gradients.

    Args:
        initialisation: that other estimator, such as :func:`innerloop.unrolled` (as in MAML) or
            :func:`innerloop.displacement` (as in Reptile). The returned :class:`Info` is its own.

    Example:
        >>> import innerloop as il
        >>> adaptation = il.Adaptation(il.rules.sgd(0.1), steps=100, adapt="* !*warp.*")
        >>> method = il.Method(adaptation, trajectory(il.displacement()))

    References:
        Flennerhag, Rusu, Pascanu, Visin, Yin, Hadsell: Meta-Learning with Warped Gradient Descent. ICLR 2020,
        section 2 and algorithms 1 and 2.
    """

    initialisation: MetaGradient

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        scored_iterates(loop.adaptation, episode)  # raises if there are no queries
        grads, info = self.initialisation(loop, episode)
        steps = loop.adaptation.steps
        with torch.enable_grad():
            iterate = loop.begin(Track.NOTHING)
            phi = leaves({name: loop.meta.model[name] for name in iterate.fixed})
            total = {name: torch.zeros_like(p) for name, p in phi.items()} if steps else {}
            for k in range(steps):
                at = Iterate(detached(iterate.adapted), phi, map_nested(Tensor.detach, iterate.state), k)
                iterate = loop.step(at, Track.EVERYTHING)
                losses, _ = loop.query(iterate, episode)
                found = pulled_back([losses], [torch.full_like(losses, 1 / steps)], phi)
                total |= {name: total[name] + grad for name, grad in found.items()}
        return replace(grads, model={**grads.model, **total}), info


trajectory = Trajectory
"""The public name of :class:`Trajectory`."""
