"""GAP: MAML with a meta-learned preconditioner that adapts to the geometry of each gradient."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd, singular
from innerloop.rules.singular import Form

__all__ = ["gap"]


@registered(
    title="GAP",
    like="maml",
    recipes={"omniglot-5w1s omniglot-20w1s": {"precondition": "*.conv.weight"}, "sinusoid": {}},
)
def gap(
    inner_lr: float = 0.01,
    inner_steps: int = 5,
    *,
    test_steps: int | None = 10,
    adapt: str = "*",
    precondition: str = "*",
    form: Form = "svd",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""GAP: the initialisation and a scale for each singular value of the inner gradients are meta-learned.

    .. math:: \theta_{k+1} = \theta_k - \alpha \, U_k M \Sigma_k V_k^\top, \qquad
              \nabla L_i^{\mathrm{support}}(\theta_k) = U_k \Sigma_k V_k^\top

    There is a diagonal M for each weight matrix or kernel. It begins as the identity
    (:func:`innerloop.rules.singular`). The defaults are those of the published code for mini-ImageNet.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        precondition: name patterns of the parameters whose gradients are scaled, separated by spaces. The published
            code scales convolutions but not the head.
        form: ``svd``, ``exact_svd``, or ``diagonal`` (approximate GAP), see :func:`innerloop.rules.singular`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps, or an unknown form.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, _ = il.meta_gradient(net, il.gap(), il.Episode(x, y, x, y))
        >>> {name: list(grad.shape) for name, grad in grads.items()}
        {'weight': [2, 3], 'bias': [2], 'method.singular.weight': [2]}

    References:
        Kang, Hwang, Eo, Kim, Rhee: Meta-Learning with a Geometry-Adaptive Preconditioner. CVPR 2023, algorithm 1.
    """
    adaptation = Adaptation(singular(sgd(inner_lr), precondition, form=form), inner_steps, adapt=adapt)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
