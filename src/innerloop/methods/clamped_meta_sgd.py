"""Meta-SGD whose learned rates stay between two bounds."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import learned_sgd

__all__ = ["clamped_meta_sgd"]


@registered(
    title="Clamped Meta-SGD",
    like="meta_sgd",
    recipes={"omniglot-5w1s omniglot-20w1s": {"highest": 1.0}, "sinusoid": {"highest": 1.0}},
)
def clamped_meta_sgd(
    inner_lr: float = 0.05,
    inner_steps: int = 1,
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
    test_steps: int | None = None,
    adapt: str = "*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""Clamped Meta-SGD: Meta-SGD with its learned rates clamped between two bounds.

    .. math:: \theta_i' = \theta - \max(l, \min(\alpha, h)) \odot \nabla L_i^{\mathrm{support}}(\theta), \qquad
              (\theta, \alpha) \leftarrow (\theta, \alpha) -
              \beta \nabla_{(\theta, \alpha)} \textstyle\sum_i L_i^{\mathrm{query}}(\theta_i')

    Meta-SGD's rates may become negative or large. With a lowest rate of 0 no weight moves against its gradient. The
    clamp is differentiated exactly. So a rate beyond a bound has a gradient of zero, and stays there unless the outer
    optimizer's momentum carries it back. The rates under ``method.lr`` are the values before the clamp.

    Args:
        inner_lr: the initial value of every rate α.
        inner_steps: the number of inner steps in meta-training.
        lowest: the lowest rate l that is used.
        highest: the highest rate h that is used.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps, or an initial rate outside the bounds.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, _ = il.meta_gradient(net, il.clamped_meta_sgd(), il.Episode(x, y, x, y))
        >>> {name: list(grad.shape) for name, grad in grads.items()}
        {'weight': [2, 3], 'bias': [2], 'method.lr.weight': [2, 3], 'method.lr.bias': [2]}

    References:
        Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning. 2017, algorithm 1. The clamp is
        this project's.
    """
    rule = learned_sgd(inner_lr, per="weight", bounds=(lowest, highest))
    adaptation = Adaptation(rule, inner_steps, adapt=adapt)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
