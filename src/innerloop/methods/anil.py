"""ANIL: MAML that adapts the head only."""

from __future__ import annotations

from innerloop.metagrad import MetaGradient
from innerloop.methods._experiments import PHOTOGRAPHS
from innerloop.methods.base import Method, registered
from innerloop.methods.maml import maml

__all__ = ["anil"]


@registered(title="ANIL", like="maml", recipes={f"omniglot-5w1s omniglot-20w1s {PHOTOGRAPHS}": {}})
def anil(
    inner_lr: float = 0.1,
    inner_steps: int = 5,
    *,
    test_steps: int | None = None,
    head: str = "@last",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    """ANIL, almost no inner loop: MAML that adapts the head only, in meta-training and on new tasks.

    The body is meta-learned through the adaptation of the head.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        head: name patterns of the head's parameters, such as ``"classifier.*"``; the last layer by default. See
            :func:`innerloop.inner.selection.partition`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = il.nets.mlp(3, 2, (4,)), torch.randn(6, 3), torch.randint(2, (6,))
        >>> adapted = il.adapt(net, il.anil(inner_lr=0.1), x, y)
        >>> [name for name, p in net.named_parameters() if not torch.equal(adapted[name], p)]
        ['2.weight', '2.bias']

    References:
        Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the Effectiveness of
        MAML. ICLR 2020, section 4.
    """
    return maml(inner_lr, inner_steps, test_steps=test_steps, adapt=head, meta_gradient=meta_gradient)
