"""The meta-parameters: what meta-training learns, and what is carried along with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from innerloop.params import Params, leaf, map_params
from innerloop.rules.base import RuleState

__all__ = ["METHOD_PREFIX", "Meta"]

METHOD_PREFIX = "method."
"""What stands before the names of learned quantities where all meta-parameters are in one dictionary."""


@dataclass(frozen=True)
class Meta:
    """What the inner loop starts from. A meta-gradient has the same form: one tensor for each meta-parameter.

    Attributes:
        model: the initialisation θ, by the names of the module's parameters.
        learned: what the method learns besides, such as inner learning rates, by the rule's names.
        state: the rule's state carried over from earlier meta-batches, shared by all tasks; None for a new one.
        statistics: batch-norm statistics for each inner step, for the mode ``per_step``; None for none.

    Example:
        >>> import torch
        >>> meta = Meta.of({"weight": torch.ones(2), "method.lr": torch.tensor(0.1)})
        >>> list(meta.model), list(meta.learned), list(meta.named())
        (['weight'], ['lr'], ['weight', 'method.lr'])
    """

    model: Params
    learned: Params = field(default_factory=dict)
    state: RuleState | None = None
    statistics: Params | None = None

    @classmethod
    def of(cls, named: Mapping[str, Tensor], state: RuleState | None = None, statistics: Params | None = None) -> Meta:
        """The record of one dictionary, in which learned quantities have names that begin with ``method.``."""
        learned = {n.removeprefix(METHOD_PREFIX): t for n, t in named.items() if n.startswith(METHOD_PREFIX)}
        return cls({n: t for n, t in named.items() if not n.startswith(METHOD_PREFIX)}, learned, state, statistics)

    def named(self) -> Params:
        """All meta-parameters in one dictionary, as an optimizer or a user's own loop wants them."""
        return {**self.model, **{METHOD_PREFIX + name: tensor for name, tensor in self.learned.items()}}

    def map(self, fn: Callable[..., Tensor], *rest: Meta) -> Meta:
        """``fn`` of each meta-parameter, with those of the same names in ``rest``; the other fields stay."""
        return Meta(
            map_params(fn, self.model, *(other.model for other in rest)),
            map_params(fn, self.learned, *(other.learned for other in rest)),
            self.state,
            self.statistics,
        )

    def detached(self) -> Meta:
        """The same values without their graph."""
        return self.map(Tensor.detach)

    def leaves(self) -> Meta:
        """The same values as new leaves of a graph, to be differentiated with respect to."""
        return self.map(leaf)
