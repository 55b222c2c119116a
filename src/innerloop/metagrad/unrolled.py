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

    The graphs of all inner steps are in memory at once, so memory grows with their number.
    :func:`innerloop.checkpointed` and :func:`innerloop.mixed_mode` give the same gradient in less memory.

    Raises:
        torch.OutOfMemoryError: there is not enough memory. The message says what needs less. On a CPU this is a
            MemoryError or a RuntimeError.

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
            if (same := _memory_error_type(error)) is None:
                raise
            steps = loop.adaptation.steps
            segments = steps if steps <= WHOLE else ""  # by default so few steps are a single segment
            raise same(
                f"{str(error) or 'out of memory'}\nThe graphs of {steps} inner steps of {episode.tasks} "
                "tasks did not fit. To need less, run fewer tasks at a time with execution=N, or take another exact "
                f"estimator: meta_gradient=il.checkpointed({segments}) or meta_gradient=il.mixed_mode()"
            ) from error


unrolled = Unrolled
"""The public name of :class:`Unrolled`."""


def _memory_error_type(error: MemoryError | RuntimeError) -> type[Exception] | None:
    """The type of an error that says that memory ran out; None for any other error."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError
    if isinstance(error, MemoryError):
        return MemoryError
    # PyTorch's CPU allocator raises a plain RuntimeError.
    return RuntimeError if "can't allocate memory" in str(error) else None
