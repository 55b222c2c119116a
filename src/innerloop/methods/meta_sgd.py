"""Meta-SGD: MAML with a learned rate for each weight."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._experiments import MINI
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import learned_sgd

__all__ = ["meta_sgd"]


@registered(
    title="Meta-SGD",
    like="maml",
    recipes={
        f"omniglot-5w1s omniglot-20w1s {MINI}": {"inner_lr": 0.05, "inner_steps": 1, "test_steps": 1},
        "sinusoid": {"inner_lr": 0.05, "test_steps": 1},
    },
)
def meta_sgd(
    inner_lr: float = 0.05,
    inner_steps: int = 1,
    *,
    test_steps: int | None = None,
    adapt: str = "*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""Meta-SGD: the initialisation and a rate for each weight are meta-learned together.

    .. math:: \theta_i' = \theta - \alpha \odot \nabla L_i^{\mathrm{support}}(\theta), \qquad
              (\theta, \alpha) \leftarrow (\theta, \alpha) -
              \beta \nabla_{(\theta, \alpha)} \textstyle\sum_i L_i^{\mathrm{query}}(\theta_i')

    The rates are meta-parameters under ``method.lr``. In the paper all rates begin at one value, drawn from 0.005 to
    0.1, and there is one inner step.

    Args:
        inner_lr: the initial value of every rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, _ = il.meta_gradient(net, il.meta_sgd(), il.Episode(x, y, x, y))
        >>> {name: list(grad.shape) for name, grad in grads.items()}
        {'weight': [2, 3], 'bias': [2], 'method.lr.weight': [2, 3], 'method.lr.bias': [2]}

    References:
        Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning. 2017, algorithm 1.
    """
    adaptation = Adaptation(learned_sgd(inner_lr, per="weight"), inner_steps, adapt=adapt)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
