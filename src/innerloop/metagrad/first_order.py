"""First-order MAML's meta-gradient, which takes every inner gradient as a constant."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad._query_loss import differentiated_query_loss
from innerloop.metagrad.base import Info, MetaGradient

__all__ = ["FirstOrder", "first_order"]


@dataclass(frozen=True, repr=False)
class FirstOrder(MetaGradient):
    r"""The meta-gradient with every inner gradient taken as a constant (FOMAML; Finn et al., 2017, section 5.2).

    .. math:: \sum_i \nabla L_i^{\mathrm{query}}(\theta_i')

    What a rule learns, such as a learning rate, still gets a gradient: the updates are differentiated.

    Example:
        >>> import innerloop as il
        >>> il.first_order(), il.first_order().exact
        (FirstOrder(), False)
    """

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        return differentiated_query_loss(loop, episode, Track.UPDATES)


first_order = FirstOrder
"""The public name of :class:`FirstOrder`."""
