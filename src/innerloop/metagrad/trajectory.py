"""WarpGrad's meta-gradient: one inner step at a time, all along the inner loop."""

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
    r"""Teach what the inner loop leaves alone to make each single step of it a good one (WarpGrad).

    .. math:: \nabla_\phi \sum_i \frac{1}{K} \sum_{k=0}^{K-1} L_i^{\mathrm{query}}\big(
              \bar\theta_{i,k} - \alpha \nabla L_i^{\mathrm{support}}(\bar\theta_{i,k}; \phi); \phi\big)

    for the parameters φ that are not adapted, such as warp layers. The iterates :math:`\bar\theta_{i,k}` that the inner
    loop passes are constants (and so is the rule's state there): nothing is differentiated through more than one step,
    and memory does not grow with their number. What is adapted, and what the rule learns, is taught by another
    estimator, in an inner loop of its own. Without inner steps, all of it is.

    Args:
        initialisation: the estimator of all other gradients, such as :func:`innerloop.unrolled`, as in MAML, or
            :func:`innerloop.displacement`, as in Reptile. What is observed is its own.

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
        scored_iterates(loop.adaptation, episode)  # that there are queries
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
