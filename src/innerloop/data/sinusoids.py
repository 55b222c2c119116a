"""Sinusoid regression, the first experiment of MAML (Finn et al., 2017, section 5.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.data.base import Location, Split, registered_data
from innerloop.episode import Episode

__all__ = ["SinusoidEpisodes", "Sinusoids", "sinusoids"]


@dataclass(frozen=True)
class Sinusoids:
    """Tasks ``y = A sin(x - phase)``. ``A``, ``phase`` and ``x`` are drawn uniformly from their ranges.

    Args:
        amplitude: the range of ``A``.
        phase: the range of the phase, in radians.
        x: the range of the inputs.

    Raises:
        ValueError: a range is empty or not finite.

    Example:
        >>> Sinusoids(amplitude=(5.0, 10.0)).amplitude  # larger than any in training
        (5.0, 10.0)
    """

    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    x: tuple[float, float] = (-5.0, 5.0)

    def __post_init__(self) -> None:
        for name in ("amplitude", "phase", "x"):
            low, high = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"{name}={(low, high)}: expected two finite numbers, the lower first.")

    def episodes(self, shots: int = 10, queries: int = 10, tasks: int = 25) -> SinusoidEpisodes:
        """Make a sampler of ``tasks`` functions, each with ``shots`` support points and ``queries`` query points.

        Raises:
            ValueError: ``shots`` or ``tasks`` is below 1, or ``queries`` is below 0.

        Example:
            >>> episode = sinusoids().episodes(shots=5)(torch.Generator().manual_seed(0))
            >>> list(episode.support_x.shape), list(episode.query_y.shape)
            ([25, 5, 1], [25, 10, 1])
        """
        return SinusoidEpisodes(self, shots, queries, tasks)


@dataclass(frozen=True)
class SinusoidEpisodes:
    """A sampler, a pure function of a generator: it draws ``T`` sinusoids and points on them.

    The tensors are on the generator's device. ``x`` and ``y`` are float32, ``[T, K, 1]`` for the support set and
    ``[T, Q, 1]`` for the query set. :meth:`Sinusoids.episodes` makes it and documents the arguments and errors.

    Example:
        >>> episode = sinusoids().episodes(tasks=2)(torch.Generator().manual_seed(0))
        >>> bool((episode.support_y.abs() <= 5).all())
        True
    """

    source: Sinusoids
    shots: int
    queries: int
    tasks: int

    def __post_init__(self) -> None:
        for name, least in (("shots", 1), ("queries", 0), ("tasks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}.")

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next meta-batch."""

        def uniform(bounds: tuple[float, float], points: int) -> Tensor:
            low, high = bounds
            unit = torch.rand(self.tasks, points, 1, generator=generator, device=generator.device)
            return low + (high - low) * unit

        amplitude, phase = uniform(self.source.amplitude, 1), uniform(self.source.phase, 1)
        x = uniform(self.source.x, self.shots + self.queries)
        y = amplitude * torch.sin(x - phase)
        return Episode(x[:, : self.shots], y[:, : self.shots], x[:, self.shots :], y[:, self.shots :])


def sinusoids() -> Sinusoids:
    """Return the sinusoids of the MAML paper: amplitude in [0.1, 5], phase in [0, pi], inputs in [-5, 5].

    Example:
        >>> sinusoids()
        Sinusoids(amplitude=(0.1, 5.0), phase=(0.0, 3.141592653589793), x=(-5.0, 5.0))
    """
    return Sinusoids()


@registered_data("sinusoids", kind="regression", network="mlp")
def _open(split: Split, place: Location) -> Sinusoids:
    """Sinusoids for a recipe; every split has the same functions."""
    return sinusoids()
