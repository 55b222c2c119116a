"""A meta-gradient of one chunk of tasks as a function of tensors alone, so that it can be recorded or compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from innerloop.engine import pytree
from innerloop.episode import Episode
from innerloop.inner.loop import Problem, Support
from innerloop.metagrad.base import Info
from innerloop.methods.base import Method
from innerloop.params import Params

__all__ = ["Estimate"]


class Estimate:
    """One call of a method's meta-gradient, not made yet.

    Args:
        method: the method, whose identity is part of the key.
        problem: the model with its loss.
        meta_params: the meta-parameters.
        chunk: the tasks.
        support: what they adapt to.

    Attributes:
        tensors: all that it is a function of.
        data: which of them are support and query sets, ``[T, N, ...]``, and not parameters and the like.
        key: what must be the same for a recorded or compiled function to serve again; another engine is another model.
    """

    def __init__(
        self, method: Method, problem: Problem, meta_params: Mapping[str, Tensor], chunk: Episode, support: Support
    ) -> None:
        self.method, self.problem = method, problem
        nested = (
            (dict(meta_params), (chunk.query_x, chunk.query_y), (support.x, support.y), support.batches),
            support.state,
        )
        leaves, self._spec = pytree.tree_flatten(nested)
        self._others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.tensors: list[Tensor] = [leaves[place] for place in self._places]
        self.data = range(len(meta_params), len(meta_params) + 4)
        sizes = tuple((t.shape, t.stride(), t.dtype, t.device) for t in self.tensors)
        autocast = torch.is_autocast_enabled(self.tensors[0].device.type)
        self.key = (id(method), problem.batched, autocast, self._spec, tuple(map(str, self._others)), sizes)

    def compute(self, tensors: Sequence[Tensor]) -> tuple[list[Any], pytree.TreeSpec]:
        """What the method computes from these tensors, flat, and how :meth:`result` is to read it."""
        leaves = list(self._others)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        (meta, queries, (x, y), batches), state = pytree.tree_unflatten(leaves, self._spec)
        episode, support = Episode(x, y, *queries), Support(x, y, batches, state)
        grads, info = self.method.meta_gradient(self.problem, self.method.adaptation, meta, episode, support)
        return pytree.tree_flatten((grads, info.loss, info.support_losses, info.query_accuracy, info.rule_state))

    @staticmethod
    def result(outputs: Sequence[Any], spec: pytree.TreeSpec) -> tuple[Params, Info]:
        """The meta-gradient and what was observed."""
        grads, *observed = pytree.tree_unflatten(list(outputs), spec)
        return grads, Info(*observed)
