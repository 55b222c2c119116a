"""``Meta``: the meta-parameters, with the rule's carried state and the batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from innerloop.params import Params, leaf, map_params
from innerloop.rules.base import RuleState

__all__ = ["METHOD_PREFIX", "Meta"]

METHOD_PREFIX = "method."
"""The prefix of the names of what a method learns beside the initialisation, in a dictionary of all meta-parameters."""


@dataclass(frozen=True)
class Meta:
    """The meta-parameters, from which the inner loop starts. A meta-gradient has the same form.

    Attributes:
        model: the initialisation θ, by the names of the module's parameters.
        learned: what the method learns beside the initialisation, such as inner learning rates, by the rule's names.
        state: the rule's state carried over from earlier meta-batches, shared by all tasks. With None the rule begins
            with a new state.
        statistics: the batch-norm statistics of each inner step, for the mode ``per_step``; None in the other modes.

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
        """Make the record from one dictionary. Names that begin with ``method.`` go to ``learned``."""
        learned = {n.removeprefix(METHOD_PREFIX): t for n, t in named.items() if n.startswith(METHOD_PREFIX)}
        return cls({n: t for n, t in named.items() if not n.startswith(METHOD_PREFIX)}, learned, state, statistics)

    def named(self) -> Params:
        """All meta-parameters in one dictionary, for an optimizer or a loop of your own."""
        return {**self.model, **{METHOD_PREFIX + name: tensor for name, tensor in self.learned.items()}}

    def map(self, fn: Callable[..., Tensor], *rest: Meta) -> Meta:
        """Apply ``fn`` to each meta-parameter and its namesakes in ``rest``. The other fields stay the same."""
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
        """The same values as new leaves of a graph. One can differentiate with respect to them."""
        return self.map(leaf)
