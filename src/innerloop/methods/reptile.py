"""Reptile: adapt, and move the initialisation towards where the inner loop ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import displacement
from innerloop.methods._experiments import PHOTOGRAPHS, PHOTOGRAPHS_5S
from innerloop.methods.base import Method, registered
from innerloop.rules import adam, sgd

__all__ = ["reptile"]


@registered(
    title="Reptile",
    recipes={
        # Omniglot: no queries in meta-training, one for each class in evaluation, over 10,000 tasks.
        f"omniglot-5w1s omniglot-5w5s omniglot-20w1s omniglot-20w5s glyphs-5w1s glyphs-20w1s {PHOTOGRAPHS}": {
            "pool": "flatten",
            "norm": "inductive",
            "train_shots": 10,
            "queries": 0,
            "test_queries": 1,
            "inner_lr": 1e-3,
            "inner_steps": 5,
            "inner_batch": 10,
            "test_steps": 50,
            "test_batch": 5,
            "tasks": 5,
            "outer_optimizer": "sgd",
            "outer_lr": 1.0,
            "outer_schedule": "linear",
            "val_tasks": 100,
        },
        "omniglot-5w1s omniglot-5w5s omniglot-20w1s omniglot-20w5s": {
            "scheme": "reptile",
            "iterations": 100_000,
            "val_every": 2000,
            "test_tasks": 10_000,
        },
        "omniglot-20w1s omniglot-20w5s glyphs-20w1s": {
            "inner_lr": 5e-4,
            "inner_steps": 10,
            "inner_batch": 20,
            "test_batch": 10,
        },
        "omniglot-20w1s omniglot-20w5s": {"iterations": 200_000},
        "glyphs-5w1s": {"iterations": 3000},
        # The paper's settings for mini-ImageNet.
        PHOTOGRAPHS: {
            "train_shots": 15,
            "inner_steps": 8,
            "iterations": 100_000,
            "val_every": 2000,
            "test_tasks": 10_000,
        },
        PHOTOGRAPHS_5S: {"test_batch": 15},
        # The settings of the sinusoid experiment published with Reptile: its network, and one task at a time.
        "sinusoid": {
            "hidden": (64, 64),
            "activation": "tanh",
            "train_shots": 50,
            "queries": 0,
            "inner_optimizer": "sgd",
            "inner_lr": 0.02,
            "inner_steps": 5,
            "inner_batch": 10,
            "test_steps": 32,
            "tasks": 1,
            "outer_optimizer": "sgd",
            "outer_lr": 0.1,
            "outer_schedule": "linear",
            "iterations": 30_000,
        },
    },
)
def reptile(
    inner_lr: float = 1e-3,
    inner_steps: int = 5,
    inner_batch: int | None = 10,
    *,
    test_steps: int | None = 50,
    test_batch: int | None = None,
    inner_optimizer: Literal["adam", "sgd"] = "adam",
    adapt: str = "*",
) -> Method:
    r"""Reptile: adapt with several mini-batch steps, then move the initialisation towards where they ended.

    .. math:: \theta \leftarrow \theta + \beta \, \mathrm{mean}_i (\theta_i' - \theta)

    β is the learning rate of the outer optimizer, which must be plain ``torch.optim.SGD``. In the paper it falls from 1
    to 0 over training. Episodes of one task give the paper's serial form. Episodes of several tasks give its batched
    form.

    The inner Adam has β1 = 0. Its second moments are carried from one meta-batch to the next, as in the original code.
    There the tasks of a meta-batch update them one after another. Here each task starts from the same moments, and
    their mean is carried on. So the result does not depend on the order of the tasks.

    Args:
        inner_lr: the inner learning rate.
        inner_steps: the number of inner steps in meta-training. With a single step this is joint training.
        inner_batch: the number of support examples in each inner step. None means all of them.
        test_steps: the number of inner steps on new tasks. None means ``inner_steps``.
        test_batch: support examples of each inner step on new tasks; None for all of them.
        inner_optimizer: ``adam`` (with β1 = 0) or ``sgd``.
        adapt: name patterns of the parameters to adapt, see :func:`innerloop.inner.selection.partition`.

    Raises:
        ValueError: a negative rate or number of steps, an empty batch, or another optimizer.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 6, 3), torch.randint(2, (4, 6))
        >>> grads, _ = il.meta_gradient(net, il.reptile(inner_batch=2), il.Episode(x, y, x[:, :0], y[:, :0]))
        >>> {name: list(grad.shape) for name, grad in grads.items()}
        {'weight': [2, 3], 'bias': [2]}

    References:
        Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms. 2018, algorithms 1 and 2.
    """
    if inner_optimizer not in ("adam", "sgd"):
        raise ValueError(f"inner_optimizer is {inner_optimizer!r}; choose 'adam' or 'sgd'")
    uses_adam = inner_optimizer == "adam"
    rule = adam(inner_lr, betas=(0.0, 0.999)) if uses_adam else sgd(inner_lr)
    adaptation = Adaptation(rule, inner_steps, inner_batch, adapt=adapt, carry_state=uses_adam)
    test = replace(adaptation, steps=inner_steps if test_steps is None else test_steps, batch_size=test_batch)
    return Method(adaptation, displacement(), test)
