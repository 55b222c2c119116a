"""Meta-Curvature: MAML with a meta-learned transformation of the inner gradients."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import kronecker, sgd

__all__ = ["meta_curvature"]


@registered(title="Meta-Curvature", like="maml", recipes={"omniglot-5w1s omniglot-20w1s": {}})
def meta_curvature(
    inner_lr: float = 0.1,
    inner_steps: int = 1,
    *,
    test_steps: int | None = None,
    adapt: str = "*",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""Meta-Curvature (MC2): the initialisation and a Kronecker-factored matrix for each gradient are meta-learned.

    .. math:: \theta_{k+1} = \theta_k - \alpha \,
              (M_{\mathrm{o}} \otimes M_{\mathrm{i}} \otimes M_{\mathrm{f}}) \nabla L_i^{\mathrm{support}}(\theta_k)

    There is a matrix for each axis of each parameter. It begins as the identity (:func:`innerloop.rules.kronecker`).

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
        >>> grads, _ = il.meta_gradient(net, il.meta_curvature(), il.Episode(x, y, x, y))
        >>> [name for name in grads if name.startswith("method.")]
        ['method.curvature.weight.0', 'method.curvature.weight.1', 'method.curvature.bias.0']

    References:
        Park, Oliva: Meta-Curvature. NeurIPS 2019, algorithm 1.
    """
    adaptation = Adaptation(kronecker(sgd(inner_lr)), inner_steps, adapt=adapt)
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
