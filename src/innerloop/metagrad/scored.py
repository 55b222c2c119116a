"""Meta-gradients by back-propagation from the query loss: exact, or with the inner gradients as constants."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.loop import Problem, Support, Track, named_gradients, unroll
from innerloop.metagrad.base import Info, MetaGradient, observed, scored_iterates
from innerloop.metagrad.checkpointed import WHOLE
from innerloop.params import Params, leaves

__all__ = ["first_order", "unrolled"]


def unrolled() -> MetaGradient:
    r"""The exact meta-gradient, by back-propagation through every inner step (Finn et al., 2017, eq. 1).

    .. math:: \nabla_\theta \sum_i L_i^{\mathrm{query}}(\theta_i'(\theta))

    Memory grows with the number of inner steps, whose graphs are all kept; :func:`innerloop.checkpointed` and
    :func:`innerloop.mixed_mode` give the same gradient in less.

    Raises:
        torch.OutOfMemoryError: there is not enough memory; the message says what needs less. On a CPU, MemoryError or
            RuntimeError.
    """
    estimate = _from_query_loss(Track.EVERYTHING)

    def advised(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        try:
            return estimate(problem, adaptation, meta_params, episode, support)
        except (MemoryError, RuntimeError) as error:
            if (same := _of_memory(error)) is None:
                raise
            segments = adaptation.steps if adaptation.steps <= WHOLE else ""  # few are one segment by default
            raise same(
                f"{str(error) or 'out of memory'}\nThe graphs of {adaptation.steps} inner steps of {episode.tasks} "
                "tasks did not fit. To need less, run fewer tasks at a time with execution=N, or take another exact "
                f"estimator: meta_gradient=il.checkpointed({segments}) or meta_gradient=il.mixed_mode()"
            ) from error

    return advised


def first_order() -> MetaGradient:
    r"""The meta-gradient with every inner gradient taken as a constant (FOMAML; Finn et al., 2017, section 5.2).

    .. math:: \sum_i \nabla L_i^{\mathrm{query}}(\theta_i')

    What a rule learns, such as a rate, still gets its gradient, through the updates that it makes.
    """
    return _from_query_loss(Track.UPDATES)


def _from_query_loss(track: Track) -> MetaGradient:
    def estimate(
        problem: Problem,
        adaptation: Adaptation,
        meta_params: Mapping[str, Tensor],
        episode: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        weights = scored_iterates(adaptation, episode)
        theta = leaves(meta_params)
        objective = torch.zeros((), device=episode.query_x.device)
        support_losses: list[Tensor] = []
        with torch.enable_grad():
            for weight, iterate in zip(weights, unroll(problem, adaptation, theta, support, track), strict=True):
                if iterate.support_losses is not None:
                    support_losses.append(iterate.support_losses)
                if weight:
                    losses, outputs = problem.query(iterate.adapted, iterate.fixed, episode)
                    objective = objective + weight * losses
            grads = named_gradients(
                objective.sum(), theta, create_graph=False, unused=problem.unused, what="meta-objective"
            )
        if not weights[-1]:
            with torch.no_grad():
                _, outputs = problem.query(iterate.adapted, iterate.fixed, episode)
        return grads, observed(
            adaptation, episode, iterate, loss=objective, support_losses=support_losses, outputs=outputs
        )

    return estimate


def _of_memory(error: MemoryError | RuntimeError) -> type[Exception] | None:
    """The type of an error that says that memory ran out; None of any other."""
    if isinstance(error, torch.OutOfMemoryError):
        return torch.OutOfMemoryError
    if isinstance(error, MemoryError):
        return MemoryError
    # What PyTorch's allocator for CPUs raises has no type of its own.
    return RuntimeError if "can't allocate memory" in str(error) else None
