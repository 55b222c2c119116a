"""Sharp-MAML: MAML with steps that take their gradients where the loss nearby is highest."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.uphill import Uphill
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["sharp_maml"]


@registered(
    title="Sharp-MAML",
    like="maml",
    recipes={
        # The published script for Omniglot: one radius for both levels, one inner step, 15 queries of each class.
        "omniglot-5w1s omniglot-20w1s": {
            "inner_lr": 0.1,
            "inner_steps": 1,
            "test_steps": 1,
            "inner_radius": 5e-4,
            "outer_radius": 5e-4,
            "queries": 15,
            "tasks": 16,
        },
        "sinusoid": {"inner_radius": 5e-4, "outer_radius": 5e-4},
    },
)
def sharp_maml(
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    *,
    inner_radius: float = 5e-4,
    test_steps: int | None = None,
    adapt: str = "*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""Sharp-MAML: MAML that looks for flat regions, in the inner loop and in the outer loop.

    .. math:: \theta_i' = \theta - \alpha \nabla L_i^{\mathrm{support}}(\theta + \epsilon_i), \qquad
              \epsilon_i = \rho_{\mathrm{low}} \frac{\nabla L_i^{\mathrm{support}}(\theta)}
              {\lVert \nabla L_i^{\mathrm{support}}(\theta) \rVert}

    .. math:: \theta \leftarrow \theta - \beta \nabla F(\theta + \epsilon), \qquad
              \epsilon = \rho_{\mathrm{up}} \frac{\nabla F(\theta)}{\lVert \nabla F(\theta) \rVert}, \qquad
              F(\theta) = \textstyle\sum_i L_i^{\mathrm{query}}(\theta_i')

    The lower perturbation is part of this method: each inner step starts at its iterate, but takes the gradient at a
    point uphill (:class:`innerloop.inner.uphill.Uphill`). The upper perturbation belongs to the outer optimizer and
    works with every method: wrap any optimizer in :class:`innerloop.SharpnessAware`, or set ``outer_radius`` in a
    recipe. The paper has three variants:

    - lower: this method, with an ordinary outer optimizer.
    - upper: ``inner_radius=0``, which is MAML, with a sharpness-aware outer optimizer.
    - both: this method, with a sharpness-aware outer optimizer. The recipes use this variant.

    The meta-gradient is exact: it includes the perturbation, as in the published code. New tasks are adapted to in the
    same way as tasks of meta-training. The published code also has an adaptive form, which scales the perturbation by
    the weights. It is not implemented here.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training. Each computes two gradients.
        inner_radius: the distance from an iterate to the point where its gradient is taken; 0 for MAML.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate, radius or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> def sharp(params):
        ...     return il.SharpnessAware(params, lambda groups: torch.optim.Adam(groups, lr=1e-3), radius=0.05)
        >>> trainer = il.MetaTrainer(net, il.sharp_maml(0.1, inner_radius=0.05), sharp)
        >>> trainer.step(il.Episode(x, y, x, y)).loss.shape
        torch.Size([4])

    References:
        Abbas, Xiao, Chen, Chen, Chen: Sharp-MAML: Sharpness-Aware Model-Agnostic Meta Learning. ICML 2022, algorithm 1.
        Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for Efficiently Improving Generalization. ICLR
        2021.
    """
    uphill = Uphill(inner_radius)
    adaptation = Adaptation(sgd(inner_lr), inner_steps, adapt=adapt, gradient_at=uphill if inner_radius else None)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
