"""iMAML's meta-gradient, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.gradients import checked_gradients, gradients
from innerloop.inner.loop import InnerLoop, Iterate, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad._solvers import Product, Solver, solve
from innerloop.metagrad.base import Info, MetaGradient, observed, pulled_back, refuse_learned, scored_iterates
from innerloop.params import Params, leaves, scale

__all__ = ["Implicit", "implicit"]


@dataclass(frozen=True, repr=False)
class Implicit(MetaGradient):
    r"""The meta-gradient at the solution of the inner problem, by the implicit function theorem (iMAML).

    If the inner loop has minimised :math:`L_i(\phi) + \frac{\lambda}{2} \lVert \phi - \theta \rVert^2`, the theorem
    gives

    .. math:: \nabla_\theta \sum_i L_i^{\mathrm{query}}(\phi_i) =
              \sum_i \lambda \, (\nabla^2 L_i(\phi_i) + \lambda I)^{-1} \, \nabla L_i^{\mathrm{query}}(\phi_i)

    The path of the inner loop is not differentiated, so it costs no time or memory here. The Hessian is used only in
    products with vectors. Parameters that the inner loop does not adapt also get the gradient that passes through the
    solution. The nearer the inner loop comes to the solution, the better the estimate. Without inner steps the solution
    is taken to be the start itself.

    Args:
        strength: λ, the same as in :func:`innerloop.rules.proximal`.
        iterations: the number of products with the Hessian that the solver takes.
        solver: ``cg``: conjugate gradients. ``neumann``: the first ``iterations + 1`` terms of
            :math:`\sum_j (-\nabla^2 L / \lambda)^j / \lambda`, which converge if the Hessian is smaller than λ.
            ``nystrom``: a low-rank approximation of the Hessian from ``iterations`` of its columns, at the same
            coordinates for all tasks. It holds all these columns at once, each as large as the parameters.
        damping: added to λ in the matrix that is inverted. The original code uses 1; 0 is exact.

    Raises:
        ValueError: a strength that is not positive, fewer than one iteration, an unknown solver, negative damping; when
            used, a rule that learns something, or an objective that scores an iterate before the last.

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

    strength: float
    iterations: int = 5
    solver: Solver = "cg"
    damping: float = 0.0

    def __post_init__(self) -> None:
        if not self.strength > 0 or self.iterations < 1 or not self.damping >= 0:
            raise ValueError(
                f"strength is {self.strength}, iterations is {self.iterations} and damping is {self.damping}; the "
                "strength must be positive, the iterations at least 1, the damping at least 0"
            )
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver is {self.solver!r}; choose {', '.join(map(repr, get_args(Solver)))}")

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        weights = scored_iterates(loop.adaptation, episode, only_last="the implicit gradient")
        refuse_learned(loop.meta, "the implicit gradient")
        iterate, support_losses = loop.run(Track.NOTHING)
        with torch.enable_grad():
            meta = loop.meta.leaves()
            theta, loop = meta.model, loop.starting_from(meta)
            fixed = {name: theta[name] for name in iterate.fixed}
            at = Iterate(leaves(iterate.adapted), fixed, iterate.state, iterate.steps)
            losses, outputs = loop.query(at, episode)
            slopes = pulled_back(
                [losses], [torch.full_like(losses, weights[-1])], {**at.adapted, **at.fixed}, retain_graph=True
            )
            found = {name: slopes[name] for name in at.fixed if name in slopes}
            solution = {name: slopes[name] for name in at.adapted if name in slopes}
            if loop.adaptation.steps:
                solution, through = _through_solution(loop, at, slopes, self._solved)
                solution = scale(solution, self.strength)
                found |= {name: found[name] - part if name in found else -part for name, part in through.items()}
            first = loop.begin(Track.UPDATES).adapted
            through = pulled_back([first[name] for name in solution], list(solution.values()), theta, retain_graph=True)
            found |= {name: found[name] + part if name in found else part for name, part in through.items()}
        grads = checked_gradients(theta, found, unused=loop.problem.unused, what="meta-objective")
        loss = weights[-1] * losses.detach()
        info = observed(loop, episode, iterate, loss=loss, support_losses=support_losses, outputs=outputs)
        return Meta(grads), info

    def _solved(self, hessian: Product, b: Params) -> Params:
        return solve(self.solver, hessian, b, self.strength + self.damping, self.iterations)


implicit = Implicit
"""The public name of :class:`Implicit`."""


def _through_solution(
    loop: InnerLoop, at: Iterate, slopes: Mapping[str, Tensor], solved: Callable[[Product, Params], Params]
) -> tuple[Params, Params]:
    """``v = (H + λI)^-1 g``, and the product of v with the mixed second derivatives in the fixed parameters."""
    problem, support = loop.problem, loop.support
    inner_loss = loop.adaptation.inner_loss
    losses = problem.support_losses(inner_loss, at.adapted, at.fixed, support.x, support.y, second_order=True)
    grads = gradients(losses.sum(), at.adapted, create_graph=True, unused=problem.unused, what="support loss")

    def second(v: Params, params: Params) -> Params:
        return pulled_back(list(grads.values()), list(v.values()), params, retain_graph=True)

    def hessian(v: Params) -> Params:
        products = second(v, at.adapted)
        return {name: products[name] if name in products else torch.zeros_like(t) for name, t in v.items()}

    g = {name: slopes[name] if name in slopes else torch.zeros_like(t) for name, t in at.adapted.items()}
    v = solved(hessian, g)
    return v, second(v, at.fixed)
