"""MAML, and its first-order form."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, first_order, unrolled
from innerloop.methods._experiments import PHOTOGRAPHS, PHOTOGRAPHS_1S, PHOTOGRAPHS_5S
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["fomaml", "maml"]


@registered(
    title="MAML",
    recipes={
        # Batch norm's weights are meta-learned but not adapted, and the head starts from N(0, 1).
        "omniglot-5w1s omniglot-5w5s omniglot-20w1s omniglot-20w5s": {
            "inner_lr": 0.4,
            "inner_steps": 1,
            "test_steps": 3,
            "adapt": "* !*.norm.*",
            "head_std": 1.0,
        },
        "omniglot-20w1s omniglot-20w5s": {"tasks": 16, "inner_lr": 0.1, "inner_steps": 5, "test_steps": 5},
        "sinusoid": {"inner_lr": 0.01, "inner_steps": 1, "test_steps": 10},
        # The paper's settings for mini-ImageNet. Its test tasks have as many query images as support images.
        PHOTOGRAPHS: {"inner_lr": 0.01, "inner_steps": 5, "test_steps": 10, "adapt": "* !*.norm.*"},
        PHOTOGRAPHS_1S: {"test_queries": 1},
        PHOTOGRAPHS_5S: {"test_queries": 5, "tasks": 2},
        # Glyphs are this project's own; the schedules are short enough for a laptop.
        "glyphs-5w1s": {"inner_lr": 0.4, "inner_steps": 1, "test_steps": 3},
        "glyphs-20w1s": {
            "tasks": 4,
            "queries": 2,
            "test_queries": 2,
            "inner_lr": 0.1,
            "inner_steps": 5,
            "test_steps": 5,
        },
    },
)
def maml(
    inner_lr: float = 0.4,
    inner_steps: int = 1,
    *,
    test_steps: int | None = None,
    adapt: str = "*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""MAML: gradient descent on the support set. The query loss is differentiated through it.

    .. math:: \theta_i' = \theta - \alpha \nabla L_i^{\mathrm{support}}(\theta), \qquad
              \theta \leftarrow \theta - \beta \nabla_\theta \textstyle\sum_i L_i^{\mathrm{query}}(\theta_i')

    β is the learning rate of the outer optimizer. The paper uses Adam.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, info = il.meta_gradient(net, il.maml(inner_lr=0.1), il.Episode(x, y, x, y))
        >>> {name: list(grad.shape) for name, grad in grads.items()}
        {'weight': [2, 3], 'bias': [2]}

    References:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017,
        algorithm 2.
    """
    adaptation = Adaptation(sgd(inner_lr), inner_steps, adapt=adapt)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))


@registered(
    title="First-order MAML",
    like="maml",
    recipes={f"omniglot-5w1s omniglot-5w5s omniglot-20w1s omniglot-20w5s sinusoid {PHOTOGRAPHS}": {}},
)
def fomaml(inner_lr: float = 0.4, inner_steps: int = 1, *, test_steps: int | None = None, adapt: str = "*") -> Method:
    """First-order MAML: as :func:`maml`, with the gradients of the inner loop taken as constants.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import innerloop as il
        >>> il.fomaml(inner_lr=0.1, inner_steps=5, test_steps=10).test.steps
        10

    References:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017,
        section 5.2.
    """
    return maml(inner_lr, inner_steps, test_steps=test_steps, adapt=adapt, meta_gradient=first_order())
