"""iMAML: MAML with implicit gradients."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import implicit
from innerloop.metagrad._solvers import Solver
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import proximal, sgd

__all__ = ["imaml"]


@registered(
    title="iMAML",
    like="maml",
    recipes={
        "omniglot-5w1s omniglot-20w1s": {"inner_lr": 0.1, "inner_steps": 16, "test_steps": 16, "iterations": 20_000},
        "omniglot-20w1s": {"inner_steps": 25, "test_steps": 25},
    },
)
def imaml(
    inner_lr: float = 0.1,
    inner_steps: int = 16,
    *,
    test_steps: int | None = None,
    adapt: str = "*",
    strength: float = 2.0,
    solver_iterations: int = 5,
    solver: Solver = "cg",
    damping: float = 1.0,
) -> Method:
    r"""iMAML: the inner loop stays near the start, and only its end enters the meta-gradient.

    .. math:: \phi_i = \operatorname{argmin}_\phi L_i^{\mathrm{support}}(\phi) +
              \tfrac{\lambda}{2} \lVert \phi - \theta \rVert^2, \qquad
              \theta \leftarrow \theta - \beta \textstyle\sum_i
              \lambda (\nabla^2 L_i^{\mathrm{support}}(\phi_i) + \lambda I)^{-1} \nabla L_i^{\mathrm{query}}(\phi_i)

    Memory does not grow with the number of inner steps. The defaults are those of the published code for 5-way
    Omniglot. That code sets λ to 0 in tests; this one does not. The damping is for inner problems that are not convex
    or not solved, where an exact inverse can become very large.

    Args:
        inner_lr: the rate of gradient descent on the inner problem.
        inner_steps: the number of inner steps in meta-training. There must be enough of them to come near the solution.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        strength: λ.
        solver_iterations: products with the Hessian that the solver takes.
        solver: ``cg`` (conjugate gradients), ``neumann`` or ``nystrom``, see :func:`innerloop.implicit`.
        damping: added to λ in the matrix that is inverted, see :func:`innerloop.implicit`.

    Raises:
        ValueError: a negative rate or number of steps, or a setting that :func:`innerloop.implicit` refuses.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, _ = il.meta_gradient(net, il.imaml(), il.Episode(x, y, x, y))
        >>> {name: list(grad.shape) for name, grad in grads.items()}
        {'weight': [2, 3], 'bias': [2]}

    References:
        Rajeswaran, Finn, Kakade, Levine: Meta-Learning with Implicit Gradients. NeurIPS 2019, algorithms 1 and 2.
    """
    adaptation = Adaptation(proximal(sgd(inner_lr), strength), inner_steps, adapt=adapt)
    estimator = implicit(strength, iterations=solver_iterations, solver=solver, damping=damping)
    return Method(adaptation, estimator, with_steps(adaptation, test_steps))
