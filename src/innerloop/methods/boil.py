"""BOIL: MAML that adapts everything but the head."""

from __future__ import annotations

from innerloop.inner.selection import complement
from innerloop.metagrad import MetaGradient
from innerloop.methods._experiments import MINI
from innerloop.methods.base import Method, registered
from innerloop.methods.maml import maml

__all__ = ["boil"]


@registered(
    title="BOIL",
    like="maml",
    recipes={
        f"omniglot-5w1s omniglot-20w1s {MINI}": {"inner_lr": 0.5, "inner_steps": 1, "test_steps": 1},
        MINI: {"filters": 64},
    },
)
def boil(
    inner_lr: float = 0.5,
    inner_steps: int = 1,
    *,
    test_steps: int | None = None,
    head: str = "@last",
    meta_gradient: MetaGradient | None = None,
) -> Method:
    """BOIL, body only update in inner loop: MAML that adapts everything but the head.

    The head is meta-learned and the same for every task. So it is the features that must change.

    Args:
        inner_lr: the inner learning rate α.
        inner_steps: the number of inner steps in meta-training.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        head: name patterns of the head's parameters, as for :func:`anil`.
        meta_gradient: an exact estimator of the meta-gradient; by default :func:`innerloop.unrolled`.

    Raises:
        ValueError: a negative rate or number of steps.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = il.nets.mlp(3, 2, (4,)), torch.randn(6, 3), torch.randint(2, (6,))
        >>> adapted = il.adapt(net, il.boil(inner_lr=0.5), x, y)
        >>> [name for name, p in net.named_parameters() if not torch.equal(adapted[name], p)]
        ['0.weight', '0.bias']

    References:
        Oh, Yoo, Kim, Yun: BOIL: Towards Representation Change for Few-shot Learning. ICLR 2021, section 3.
    """
    return maml(inner_lr, inner_steps, test_steps=test_steps, adapt=complement(head), meta_gradient=meta_gradient)
