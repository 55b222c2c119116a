from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop.data.sinusoids import Sinusoids, sinusoids


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(shots=st.integers(1, 12), queries=st.integers(0, 12), tasks=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_shapes_ranges_and_seed(shots: int, queries: int, tasks: int, seed: int) -> None:
    draw = sinusoids().episodes(shots, queries, tasks)
    one, two = draw(seeded(seed)), draw(seeded(seed))
    assert one.support_x.shape == one.support_y.shape == (tasks, shots, 1)
    assert one.query_x.shape == one.query_y.shape == (tasks, queries, 1)
    assert one.support_x.abs().max() <= 5
    assert one.support_y.abs().max() <= 5
    assert torch.equal(one.query_y, two.query_y)


def test_support_and_query_lie_on_one_sinusoid() -> None:
    """a sin(x) - b cos(x) fitted to the support set predicts the query set; A and phase are in range."""
    episode = sinusoids().episodes(shots=20, queries=20, tasks=500)(seeded()).map(torch.Tensor.double)
    basis = torch.cat([episode.support_x.sin(), -episode.support_x.cos()], -1)
    fit = torch.linalg.lstsq(basis, episode.support_y).solution
    predicted = torch.cat([episode.query_x.sin(), -episode.query_x.cos()], -1) @ fit
    assert (predicted - episode.query_y).abs().max() < 1e-4
    amplitude, phase = fit.norm(dim=1), torch.atan2(fit[:, 1], fit[:, 0])
    assert 0.1 - 1e-4 <= amplitude.min() < 0.2 < 4.9 < amplitude.max() <= 5 + 1e-4
    assert -1e-3 <= phase.min() < 0.1 < math.pi - 0.1 < phase.max() <= math.pi + 1e-3
    assert abs(amplitude.mean() - 2.55) < 0.3
    assert abs(phase.mean() - math.pi / 2) < 0.2


def test_fixed_parameters_give_the_formula() -> None:
    source = Sinusoids(amplitude=(2.0, 2.0), phase=(0.5, 0.5), x=(0.0, 1.0))
    episode = source.episodes(3, 4, 2)(seeded())
    torch.testing.assert_close(episode.query_y, 2 * torch.sin(episode.query_x - 0.5))
    assert episode.query_x.min() >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 0}, "shots=0: expected at least 1"),
        ({"queries": -1}, "queries=-1: expected at least 0"),
        ({"tasks": 0}, "tasks=0: expected at least 1"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sinusoids().episodes(**options)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)])
def test_impossible_ranges_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="amplitude=.*the lower first"):
        Sinusoids(amplitude=bounds)
