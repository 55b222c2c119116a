"""``Estimate``: the meta-gradient of one chunk of tasks, as a pure function of tensors.

In this form it can be recorded or compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from innerloop.engine import pytree
from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop, Support
from innerloop.inner.meta import Meta
from innerloop.inner.model import StatelessModel
from innerloop.inner.problem import Problem
from innerloop.metagrad.base import Info
from innerloop.methods.base import Method

__all__ = ["Estimate"]


class Estimate:
    """A call of a method's meta-gradient that is not made yet.

    Args:
        method: the method.
        problem: the model with its loss.
        meta: the meta-parameters, and the rule's state.
        chunk: the tasks.
        support: their support sets.

    Attributes:
        tensors: all tensors that the result depends on.
        data: the positions in ``tensors`` of the support and query sets ``[T, N, ...]``.
        form: the sizes and types of all tensors, and the values of all other inputs. A recorded or compiled function
            can serve another call only if the forms are equal.
        key: the method and the form. Keys of different engines must not be compared.
    """

    def __init__(self, method: Method, problem: Problem, meta: Meta, chunk: Episode, support: Support) -> None:
        self.method, self.problem = method, problem
        queries, examples = (chunk.query_x, chunk.query_y), (support.x, support.y)
        constants = dict(problem.model.constants)
        nested = (dict(meta.model), dict(meta.learned), queries, examples, support.batches, meta.state, constants)
        leaves, self._spec = pytree.tree_flatten(nested)
        self._others = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.tensors: list[Tensor] = [leaves[place] for place in self._places]
        parameters = len(meta.model) + len(meta.learned)
        self.data = range(parameters, parameters + 4)
        sizes = tuple((t.shape, t.stride(), t.dtype, t.device) for t in self.tensors)
        autocast = torch.is_autocast_enabled(self.tensors[0].device.type)
        self.form = (problem.tasks.batched, problem.unused, autocast, self._spec, tuple(map(str, self._others)), sizes)
        self.key = (method, self.form)

    def compute(
        self, tensors: Sequence[Tensor], copy: StatelessModel | None = None
    ) -> tuple[list[Any], pytree.TreeSpec]:
        """The results for these tensors as a flat list, and their structure, for :meth:`result`.

        Args:
            tensors: tensors in place of :attr:`tensors`.
            copy: another copy of the model; by default the problem's own.
        """
        leaves = list(self._others)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        model, learned, queries, (x, y), batches, state, constants = pytree.tree_unflatten(leaves, self._spec)
        problem = replace(self.problem, model=(copy or self.problem.model).with_constants(constants))
        loop = InnerLoop(problem, self.method.adaptation, Meta(model, learned, state), Support(x, y, batches))
        grads, info = self.method.meta_gradient(loop, Episode(x, y, *queries))
        return pytree.tree_flatten(
            (grads.model, grads.learned, info.loss, info.support_losses, info.query_accuracy, info.rule_state)
        )

    @staticmethod
    def result(outputs: Sequence[Any], spec: pytree.TreeSpec) -> tuple[Meta, Info]:
        """The meta-gradient and the :class:`Info`, from the flat list and its structure."""
        model, learned, *observed = pytree.tree_unflatten(list(outputs), spec)
        return Meta(model, learned), Info(*observed)
