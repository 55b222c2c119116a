"""The plans that an engine has chosen in place of the usual ones, as values that a file can hold."""

from __future__ import annotations

from collections.abc import Iterable

from innerloop.engine.engine import Engine
from innerloop.engine.plans import Plan

__all__ = ["SavedPlan", "chosen_plans", "restore_plans"]

SavedPlan = tuple[tuple[int, ...], int, bool, int]
"""The sizes that a plan is for, its tasks, whether it is batched, and its threads."""


def chosen_plans(engine: Engine) -> list[SavedPlan]:
    """The plans that replace the usual ones, such as those that were halved because memory ran out."""
    return [(sizes, plan.tasks, plan.batched, plan.threads) for sizes, plan in engine._chosen.items()]


def restore_plans(engine: Engine, plans: Iterable[SavedPlan], threads: int) -> None:
    """Use plans that :func:`chosen_plans` gave.

    Args:
        engine: the engine.
        plans: the plans.
        threads: the number of threads that a plan has now. Plans for another number are left out: they are of another
            machine, which may have had less memory.
    """
    for sizes, tasks, batched, plan_threads in plans:
        if plan_threads == threads:
            engine._chosen[sizes] = Plan(tasks, batched, threads)
