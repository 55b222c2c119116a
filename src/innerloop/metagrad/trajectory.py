"""WarpGrad's meta-gradient: one inner step at a time, all along the inner loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import Iterate, Problem, Support, Track, begin, step
from innerloop.metagrad.base import Info, MetaGradient, pulled_back, scored_iterates
from innerloop.params import METHOD_PREFIX, Params, detached, leaves, map_nested

__all__ = ["trajectory"]


def trajectory(initialisation: MetaGradient) -> MetaGradient:
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

    def estimate(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        scored_iterates(adaptation, episode)  # that there are queries
        grads, info = initialisation(problem, adaptation, meta_params, episode, support)
        model = {name: p for name, p in meta_params.items() if not name.startswith(METHOD_PREFIX)}
        with torch.enable_grad():
            iterate = begin(problem, adaptation, meta_params, support, Track.NOTHING)
            phi = leaves({name: model[name] for name in iterate.fixed})
            total = {name: torch.zeros_like(p) for name, p in phi.items()} if adaptation.steps else {}
            for k in range(adaptation.steps):
                at = Iterate(detached(iterate.adapted), phi, map_nested(Tensor.detach, iterate.state))
                iterate = step(problem, adaptation, at, support, k, track=Track.EVERYTHING)
                losses, _ = problem.query(iterate.adapted, phi, episode)
                found = pulled_back([losses], [torch.full_like(losses, 1 / adaptation.steps)], phi)
                total |= {name: total[name] + grad for name, grad in found.items()}
        return {**grads, **total}, info

    return estimate
