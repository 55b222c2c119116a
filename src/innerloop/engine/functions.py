"""The core's plain functions: a meta-gradient and an adaptation, each by an engine of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.engine.engine import Engine
from innerloop.engine.plans import Execution
from innerloop.episode import Episode
from innerloop.inner.gradients import Unused
from innerloop.inner.losses import LossFn
from innerloop.inner.model import Norm
from innerloop.metagrad.base import Info
from innerloop.methods.base import Method
from innerloop.params import Params
from innerloop.rules.base import RuleState

__all__ = ["adapt", "meta_gradient"]


def meta_gradient(
    net: nn.Module,
    method: Method,
    episode: Episode,
    loss_fn: LossFn = F.cross_entropy,
    *,
    meta_params: Mapping[str, Tensor] | None = None,
    norm: Norm = "transductive",
    execution: Execution = "auto",
    unused: Unused = "error",
    rule_state: RuleState | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Params, Info]:
    """The meta-gradient of a method on an episode, for a training loop of your own.

    Each call makes a new :class:`Engine` that records nothing. For repeated calls, make one engine yourself: it is
    faster.

    Args:
        net: any ``nn.Module``. It is never changed.
        method: the method, such as :func:`innerloop.maml`.
        episode: the tasks.
        loss_fn: ``(outputs, targets) -> scalar`` of one task.
        meta_params: values to use instead of the module's own, by name.
        norm: the normalisation mode, see :mod:`innerloop.inner.model`.
        execution: how tasks are run: ``auto``, ``serial``, ``batched``, or a number of tasks at a time.
        unused: ``error`` raises for a parameter that the loss does not use. ``ignore`` gives it a gradient of zero.
        rule_state: the inner rule's state carried over, from an earlier ``info.rule_state``.
        generator: the source of randomness of inner mini-batches; by default torch's global generator.

    Returns:
        The gradient, averaged over tasks, and an :class:`Info`. The gradient is a dict with the module's own parameter
        names, then what the method learns under ``method.``.

    Raises:
        ValueError: an option or a name in ``meta_params`` is unknown, or the loss is not a scalar or does not use a
            parameter.

    Example:
        >>> import torch, innerloop as il
        >>> net, x, y = torch.nn.Linear(1, 1), torch.randn(2, 5, 1), torch.randn(2, 5, 1)
        >>> episode = il.Episode(x, y, x, y)
        >>> grads, info = il.meta_gradient(net, il.maml(0.01), episode, torch.nn.functional.mse_loss)
        >>> sorted(grads), info.loss.shape
        (['bias', 'weight'], torch.Size([2]))
    """
    engine = Engine(net, loss_fn, norm=norm, execution=execution, replay="off", unused=unused)
    return engine.meta_gradient(method, episode, meta_params, rule_state=rule_state, generator=generator)


def adapt(
    net: nn.Module,
    method: Method,
    x_support: Tensor,
    y_support: Tensor,
    loss_fn: LossFn = F.cross_entropy,
    *,
    meta_params: Mapping[str, Tensor] | None = None,
    norm: Norm = "transductive",
    statistics: Mapping[str, Tensor] | None = None,
    unused: Unused = "error",
    rule_state: RuleState | None = None,
    generator: torch.Generator | None = None,
) -> Params:
    """Adapt to one task as the method does in a test, and return the adapted parameters.

    Layers such as dropout are off.

    Args:
        net: any ``nn.Module``. It is never changed.
        method: its ``test`` adaptation is used.
        x_support: the support inputs ``[S, ...]``.
        y_support: their targets ``[S, ...]``.
        loss_fn: ``(outputs, targets) -> scalar``.
        meta_params: values to start from instead of the module's own, by name.
        norm: as for :func:`meta_gradient`. While adapting, ``transductive`` and ``inductive`` are the same.
        statistics: the batch-norm statistics of the ``per_step`` mode, see
            :func:`innerloop.evaluation.norm_statistics.statistics_by_step`.
        unused: as for :func:`meta_gradient`.
        rule_state: as for :func:`meta_gradient`.
        generator: as for :func:`meta_gradient`.

    Returns:
        All trainable parameters by name, without a graph, for ``torch.func.functional_call(net, params, x)``.

    Raises:
        ValueError: as for :func:`meta_gradient`.

    Example:
        >>> import torch, innerloop as il
        >>> net = torch.nn.Linear(1, 1)
        >>> params = il.adapt(net, il.maml(0.01), torch.ones(3, 1), torch.ones(3, 1), torch.nn.functional.mse_loss)
        >>> torch.func.functional_call(net, params, torch.ones(2, 1)).shape
        torch.Size([2, 1])
    """
    engine = Engine(net, loss_fn, norm=norm, execution="serial", unused=unused, training=False, statistics=statistics)
    return engine.adapt(method, x_support, y_support, meta_params, rule_state=rule_state, generator=generator)
