"""MAML's meta-gradient: exact, by back-propagation through every inner step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from innerloop.episode import Episode
from innerloop.inner.loop import InnerLoop, Track
from innerloop.inner.meta import Meta
from innerloop.metagrad._query_loss import differentiated_query_loss
from innerloop.metagrad.base import Info, MetaGradient
from innerloop.metagrad.checkpointed import WHOLE

__all__ = ["Unrolled", "unrolled"]


@dataclass(frozen=True, repr=False)
class Unrolled(MetaGradient):
    r"""The exact meta-gradient, by back-propagation through every inner step (Finn et al., 2017, eq. 1).

    .. math:: \nabla_\theta \sum_i L_i^{\mathrm{query}}(\theta_i'(\theta))

    Memory grows with the number of inner steps, whose graphs are all kept; :func:`innerloop.checkpointed` and
    :func:`innerloop.mixed_mode` give the same gradient in less.

    Raises:
        torch.OutOfMemoryError: there is not enough memory; the message says what needs less. On a CPU, MemoryError or
            RuntimeError.

    Example:
        >>> import innerloop as il
        >>> il.unrolled(), il.unrolled().exact
        (Unrolled(), True)
    """

    exact: ClassVar[bool] = True

    def __call__(self, loop: InnerLoop, episode: Episode) -> tuple[Meta, Info]:
        """The sum of the tasks' meta-gradients, and what was observed."""
        try:
            return differentiated_query_loss(loop, episode, Track.EVERYTHING)
        except (MemoryError, RuntimeError) as error:
            if (same := _of_memory(error)) is None:
                raise
            steps = loop.adaptation.steps
            segments = steps if steps <= WHOLE else ""  # few are one segment by default
            raise same(
                f"{str(error) or 'out of memory'}\nThe graphs of {steps} inner steps of {episode.tasks} "
                "tasks did not fit. To need less, run fewer tasks at a time with execution=N, or take another exact "
                f"estimator: meta_gradient=il.checkpointed({segments}) or meta_gradient=il.mixed_mode()"
            ) from error


unrolled = Unrolled
"""The public name of :class:`Unrolled`."""


def _of_memory(error: MemoryError | RuntimeError) -> type[Exception] | None:
    """The type of an error that says that memory ran out; None of any other."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError
    if isinstance(error, MemoryError):
        return MemoryError
    # What PyTorch's allocator for CPUs raises has no type of its own.
    return RuntimeError if "can't allocate memory" in str(error) else None
