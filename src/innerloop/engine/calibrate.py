"""Finding the fastest plan by timing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import torch

from innerloop.engine.plans import Plan
from innerloop.randomness import RandomState

__all__ = ["timed"]


def timed(
    plans: Callable[[], list[Plan]],
    run: Callable[[Plan | None], None],
    warm_up: Callable[[Plan], None],
    device: torch.device,
    rounds: int,
) -> dict[Plan, float]:
    """The seconds of each plan, the fastest first.

    Args:
        plans: the candidates; asked for after the first run, which finds out whether tasks can be batched.
        run: runs once, by a plan, or by the one that is in force.
        warm_up: runs a plan until it has reached its full speed.
        device: where it runs.
        rounds: how often each plan is timed, in turns. Its best time counts.
    """
    seconds: dict[Plan, float] = {}

    def once(plan: Plan) -> float:
        warm_up(plan)
        start = time.perf_counter()
        run(plan)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    with RandomState.now(device).again():
        run(None)
        candidates = plans()
        for turn in range(rounds + 1 if len(candidates) > 1 else 0):
            for plan in candidates:
                if turn > 1 and seconds[plan] > 2 * min(seconds.values()):
                    continue  # it cannot become the fastest
                with contextlib.suppress(torch.OutOfMemoryError):
                    took = once(plan)
                    seconds[plan] = took if turn < 2 else min(took, seconds[plan])
            candidates = [plan for plan in candidates if plan in seconds]
    return dict(sorted(seconds.items(), key=lambda item: item[1]))
