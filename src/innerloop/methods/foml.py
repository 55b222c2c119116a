"""FOML: Reptile's inner loop, with only the last step as the meta-gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from innerloop.metagrad import displacement
from innerloop.methods.base import Method, registered
from innerloop.methods.reptile import reptile

__all__ = ["foml"]


@registered(title="FOML", like="reptile", recipes={"omniglot-5w1s omniglot-20w1s": {}})
def foml(
    inner_lr: float = 1e-3,
    inner_steps: int = 5,
    inner_batch: int | None = 10,
    *,
    test_steps: int | None = 50,
    test_batch: int | None = None,
    inner_optimizer: Literal["adam", "sgd"] = "adam",
    adapt: str = "*",
    tail: bool = False,
) -> Method:
    r"""First-order MAML as the paper of Reptile has it: adapt as Reptile does, and repeat the last move at the start.

    .. math:: \theta \leftarrow \theta + \beta \, \mathrm{mean}_i (\theta_{i,K} - \theta_{i,K-1})

    With gradient descent as inner optimizer, that move is :math:`-\alpha` times the gradient on the last mini-batch at
    :math:`\theta_{i,K-1}`. With a single step this is joint training. β is the rate of the outer optimizer, which must
    be plain ``torch.optim.SGD``.

    Args:
        inner_lr: the inner learning rate.
        inner_steps: inner steps in meta-training, including the last.
        inner_batch: the number of support examples in each inner step. None means all of them.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        test_batch: support examples of each inner step on new tasks; None for all of them.
        inner_optimizer: ``adam`` (with β1 = 0, and moments carried on as in :func:`reptile`) or ``sgd``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.
        tail: whether the last mini-batch is the query set, which shares no example with the earlier ones. Otherwise it
            is one more of the support set, which the paper finds to be worse.

    Raises:
        ValueError: a negative rate or number of steps, an empty batch, another optimizer, or a tail without a step.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> _, info = il.meta_gradient(net, il.foml(inner_batch=2, tail=True), il.Episode(x, y, x, y))
        >>> info.support_losses.shape  # and one step more, on the queries
        torch.Size([4, 4])

    References:
        Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms. 2018, sections 2 and 6.3; FOML is the name
        in its published code.
    """
    if tail and inner_steps < 1:
        raise ValueError(
            f"the number of inner steps is {inner_steps}; with tail=True it must be at least 1, "
            "because the last step is the one on the query set"
        )
    method = reptile(
        inner_lr,
        inner_steps - tail,
        inner_batch,
        test_steps=inner_steps if test_steps is None else test_steps,
        test_batch=test_batch,
        inner_optimizer=inner_optimizer,
        adapt=adapt,
    )
    return replace(method, meta_gradient=displacement("tail" if tail else "last"))
