"""Training from scratch, the baseline that learns nothing from other tasks."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import untrained
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["scratch"]


@registered(
    title="Training from scratch",
    like="maml",
    recipes={
        "omniglot-5w1s omniglot-20w1s": {
            "inner_lr": 0.5,
            "test_steps": 20,
            "adapt": "*",
            "iterations": 0,
            "head_std": None,
        }
    },
)
def scratch(inner_lr: float = 0.5, test_steps: int = 20, *, adapt: str = "*") -> Method:
    r"""Gradient descent on the support set, from the network's random initialisation.

    .. math:: \theta_{k+1} = \theta_k - \alpha \nabla L^{\mathrm{support}}(\theta_k)

    Nothing is meta-learned: the meta-gradient is zero, and training changes nothing. Every task starts from the same
    random initialisation, the network's own. For another one, make the network with another seed.

    Args:
        inner_lr: the inner learning rate α.
        test_steps: the number of steps.
        adapt: name patterns of the parameters to train, see :func:`innerloop.inner.selection.partition`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x = il.nets.mlp(3, 2), torch.randn(6, 3)
        >>> y = (x[:, 0] > 0).long()
        >>> predictor = il.Learner(net, il.scratch()).adapt(x, y)
        >>> bool((predictor.predict(x) == y).all()), il.scratch().learns
        (True, False)

    References:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017, section 5.3,
        where it is the baseline of randomly initialised weights.
    """
    return Method(Adaptation(sgd(inner_lr), test_steps, adapt=adapt), untrained())
