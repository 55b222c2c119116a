"""Batch-norm statistics for each inner step. The normalisation mode ``per_step`` predicts with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from innerloop.engine.engine import Engine
from innerloop.episode import Episode, EpisodeSampler, with_queries
from innerloop.inner.loop import InnerLoop, Support, Track
from innerloop.inner.losses import LossFn
from innerloop.inner.problem import Problem
from innerloop.methods.base import Method
from innerloop.params import Params, map_params, scale, total
from innerloop.randomness import Stream, generator_at
from innerloop.rules.base import RuleState

__all__ = ["statistics_by_step"]


def statistics_by_step(
    net: nn.Module,
    method: Method,
    episodes: EpisodeSampler,
    *,
    tasks: int = 100,
    loss_fn: LossFn = F.cross_entropy,
    meta_params: Mapping[str, Tensor] | None = None,
    rule_state: RuleState | None = None,
    seed: int = 0,
) -> Params:
    """The mean and variance of the inputs of each batch-norm layer, at each inner step, averaged over tasks.

    The method adapts to tasks as it does in a test, with batch statistics. At each iterate before the last, the
    statistics are those of the support examples of that step. At the last iterate they are those of the query set. The
    paper keeps a moving average during meta-training. This is a plain mean, computed after meta-training with the final
    meta-parameters.

    Args:
        net: the module, which holds the meta-learned initialisation. It is not changed.
        method: its ``test`` adaptation of K steps is used.
        episodes: draws meta-batches of tasks of meta-training, with a query set.
        tasks: the number of tasks. The last meta-batch is cut to fit.
        loss_fn: ``(outputs, targets) -> scalar`` of one task.
        meta_params: values to use instead of the module's own, by name.
        rule_state: the inner rule's state carried over from training.
        seed: the seed of the tasks.

    Returns:
        Tensors ``[K + 1, C]`` without a graph, under the names of the layers' buffers: ``LAYER.running_mean`` and
        ``LAYER.running_var`` (unbiased, as PyTorch stores it). The dict is empty for a module without batch norm.

    Raises:
        ValueError: ``tasks`` is below 1, or the episodes have no queries.

    Example:
        >>> import innerloop as il
        >>> tasks = il.data.sinusoids().episodes(shots=5, queries=5, tasks=4)
        >>> net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        >>> statistics = statistics_by_step(net, il.maml(0.01, 2), tasks, tasks=4, loss_fn=F.mse_loss)
        >>> {name: tuple(rows.shape) for name, rows in statistics.items()}
        {'1.running_mean': (3, 8), '1.running_var': (3, 8)}

    References:
        Antoniou, Edwards, Storkey: How to train your MAML. ICLR 2019, section 4 (BNRS).
    """
    engine = Engine(net, loss_fn, execution="serial", unused="ignore", training=False)
    adaptation = method.test
    meta = method.meta(engine.model.initial, meta_params, state=rule_state)

    def of_one(problem: Problem, chunk: Episode, support: Support) -> Params:
        rows = []
        for iterate in InnerLoop(problem, adaptation, meta, support).unroll(Track.NOTHING):
            x = support.at_step(iterate.steps)[0] if iterate.steps < adaptation.steps else chunk.query_x
            params = {**iterate.fixed, **{name: t[0] for name, t in iterate.adapted.items()}}
            with torch.no_grad():
                rows.append(problem.model.batch_statistics(params, x[0]))
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    generator = generator_at(seed, Stream.STATISTICS, device=next(iter(meta.model.values())).device)
    found: list[Params] = []
    for episode in with_queries(episodes, tasks, generator):
        found += engine.over_chunks(of_one, adaptation, episode, generator)
    return map_params(Tensor.detach, scale(total(found), 1 / tasks))
