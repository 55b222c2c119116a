"""iMAML's meta-gradient: by the implicit function theorem, from where the inner loop ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import Iterate, Problem, Support, Track, begin, named_gradients, without_gaps
from innerloop.inner.losses import InnerLoss
from innerloop.metagrad.base import (
    Info,
    MetaGradient,
    last_iterate,
    observed,
    pulled_back,
    scored_iterates,
)
from innerloop.metagrad.solvers import Product, Solver, solve
from innerloop.params import METHOD_PREFIX, Params, leaves, scale

__all__ = ["implicit"]


def implicit(strength: float, *, iterations: int = 5, solver: Solver = "cg", damping: float = 0.0) -> MetaGradient:
    r"""The meta-gradient at the solution of the inner problem, whatever led there (iMAML).

    Where the inner loop has minimised :math:`L_i(\phi) + \frac{\lambda}{2} \lVert \phi - \theta \rVert^2`, the
    implicit function theorem gives

    .. math:: \nabla_\theta \sum_i L_i^{\mathrm{query}}(\phi_i) =
              \sum_i \lambda \, (\nabla^2 L_i(\phi_i) + \lambda I)^{-1} \, \nabla L_i^{\mathrm{query}}(\phi_i)

    so that neither time nor memory goes into the path. Only products with the Hessian are taken. Parameters that the
    inner loop leaves alone get the gradient that goes through the solution, too. How good it is depends on how near
    the inner loop comes to the solution. Without inner steps the solution is the start, and so is its gradient.

    Args:
        strength: λ, that of :func:`innerloop.rules.proximal`.
        iterations: products with the Hessian that the solver takes.
        solver: ``cg`` for conjugate gradients; ``neumann`` for so many more terms of
            :math:`\sum_j (-\nabla^2 L / \lambda)^j / \lambda`, which needs a Hessian smaller than λ; ``nystrom`` for
            an approximation of the Hessian from so many of its columns, at the same coordinates for all tasks. It takes
            no iterations, and holds all columns at once, each as large as the parameters.
        damping: added to λ in the matrix that is inverted. The original code has 1; 0 is exact.

    Raises:
        ValueError: a strength that is not positive, fewer than one iteration, an unknown solver, negative damping; when
            used, a rule that learns something, or an objective that scores other iterates than the last.

    Example:
        >>> import innerloop as il
        >>> rule = il.rules.proximal(il.rules.sgd(0.1), strength=2.0)
        >>> method = il.Method(il.Adaptation(rule, steps=16), implicit(strength=2.0))

    References:
        Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients. NeurIPS 2019, eq. 6 and algorithm 2.
        Lorraine, Vicol, Duvenaud: Optimizing Millions of Hyperparameters by Implicit Differentiation. AISTATS 2020
        (Neumann series).
        Hataya, Yamada: Nystroem Method for Accurate and Scalable Implicit Differentiation. AISTATS 2023.
    """
    if not strength > 0 or iterations < 1 or not damping >= 0:
        raise ValueError(
            f"strength is {strength}, iterations is {iterations} and damping is {damping}; the strength must be "
            "positive, the iterations at least 1, the damping at least 0"
        )
    if solver not in get_args(Solver):
        raise ValueError(f"solver is {solver!r}; choose {', '.join(map(repr, get_args(Solver)))}")

    def solved(hessian: Product, b: Params) -> Params:
        return solve(solver, hessian, b, strength + damping, iterations)

    def estimate(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        weights = scored_iterates(adaptation, episode)
        if learned := [name for name in meta_params if name.startswith(METHOD_PREFIX)]:
            raise ValueError(f"the implicit gradient says nothing about {', '.join(learned)}; use unrolled")
        if any(weights[:-1]):
            raise ValueError("the implicit gradient is that of the last iterate; use the objective last_step")
        iterate, support_losses = last_iterate(problem, adaptation, meta_params, support, Track.NOTHING)
        with torch.enable_grad():
            theta = leaves(meta_params)
            at = Iterate(leaves(iterate.adapted), {name: theta[name] for name in iterate.fixed}, iterate.state)
            losses, outputs = problem.query(at.adapted, at.fixed, episode)
            slopes = pulled_back(
                [losses], [torch.full_like(losses, weights[-1])], {**at.adapted, **at.fixed}, retain_graph=True
            )
            found = {name: slopes[name] for name in at.fixed if name in slopes}
            solution = {name: slopes[name] for name in at.adapted if name in slopes}
            if adaptation.steps:
                solution, through = _through_solution(
                    problem, adaptation.inner_loss, at, support, slopes, solved=solved
                )
                solution = scale(solution, strength)
                found |= {name: found[name] - part if name in found else -part for name, part in through.items()}
            first = begin(problem, adaptation, theta, support, Track.UPDATES).adapted
            through = pulled_back([first[name] for name in solution], list(solution.values()), theta, retain_graph=True)
            found |= {name: found[name] + part if name in found else part for name, part in through.items()}
        grads = without_gaps(theta, [found.get(n) for n in theta], unused=problem.unused, what="meta-objective")
        loss = weights[-1] * losses.detach()
        return grads, observed(adaptation, episode, iterate, loss=loss, support_losses=support_losses, outputs=outputs)

    return estimate


def _through_solution(
    problem: Problem,
    inner_loss: InnerLoss,
    at: Iterate,
    support: Support,
    slopes: Mapping[str, Tensor],
    *,
    solved: Callable[[Product, Params], Params],
) -> tuple[Params, Params]:
    """``v = (H + λI)^-1 g``, and what v gives by the second derivatives in the parameters that are not adapted."""
    losses = problem.support_losses(inner_loss, at.adapted, at.fixed, support.x, support.y, twice=True)
    grads = named_gradients(losses.sum(), at.adapted, create_graph=True, unused=problem.unused, what="support loss")

    def second(v: Params, params: Params) -> Params:
        return pulled_back(list(grads.values()), list(v.values()), params, retain_graph=True)

    def hessian(v: Params) -> Params:
        products = second(v, at.adapted)
        return {name: products[name] if name in products else torch.zeros_like(t) for name, t in v.items()}

    g = {name: slopes[name] if name in slopes else torch.zeros_like(t) for name, t in at.adapted.items()}
    v = solved(hessian, g)
    return v, second(v, at.fixed)
