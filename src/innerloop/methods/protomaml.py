"""ProtoMAML: MAML with a head that begins as a prototype classifier."""

from __future__ import annotations

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.starts import prototypes
from innerloop.metagrad import MetaGradient, unrolled
from innerloop.methods._experiments import MINI
from innerloop.methods._steps import with_steps
from innerloop.methods.base import Method, registered
from innerloop.rules import sgd

__all__ = ["protomaml"]


@registered(title="ProtoMAML", like="maml", recipes={f"omniglot-5w1s omniglot-20w1s omniglot-lake {MINI}": {}})
def protomaml(
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    *,
    test_steps: int | None = None,
    adapt: str = "*",
    head: str = "@last",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    r"""ProtoMAML: MAML that starts each task with the head of a prototypical network, and learns through it.

    .. math:: w_c = 2 \mu_c, \quad b_c = -\lVert \mu_c \rVert^2, \quad
              \mu_c = \mathrm{mean}_{y_j = c} f_\theta(x_j), \quad \text{then}\quad
              \theta_{k+1} = \theta_k - \alpha \nabla L_i^{\mathrm{support}}(\theta_k)

    The meta-gradient goes through the prototypes into the body. The head's own meta-parameters have no effect, and get
    a gradient of zero. Without inner steps this is a prototypical network. It is for classification only.

    Args:
        inner_lr: α; the paper searches for it.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        adapt: name patterns of the parameters to adapt, including the head; see
            :func:`innerloop.inner.selection.partition`.
        head: the name of the linear layer that is the head; the last layer by default.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = il.nets.mlp(3, 2, (4,)), torch.randn(6, 3), torch.arange(6) % 2
        >>> start = il.adapt(net, il.protomaml(test_steps=0), x, y)
        >>> features = net[:2](x)
        >>> torch.allclose(start["2.weight"][1], 2 * features[y == 1].mean(0))
        True

    References:
        Triantafillou et al.: Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples. ICLR 2020,
        section 3.
    """
    adaptation = Adaptation(sgd(inner_lr), inner_steps, adapt=adapt, start=prototypes(head))
    return Method(adaptation, meta_gradient or unrolled(), with_steps(adaptation, test_steps))
