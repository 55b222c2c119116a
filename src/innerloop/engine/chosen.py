"""``ChosenPlans``: the plans that an engine uses in place of the usual ones, and their form in a file."""

from __future__ import annotations

from collections.abc import Iterable

from innerloop.engine.plans import Plan, sizes_of
from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation

__all__ = ["ChosenPlans", "SavedPlan"]

SavedPlan = tuple[tuple[int, ...], int, bool, int]
"""The sizes that a plan is for, its tasks, whether it is batched, and its threads."""


class ChosenPlans:
    """Plans by the sizes of the episodes that they are for. At first there are none.

    A plan is chosen because it was timed as the fastest, or because the usual one took too much memory.

    Example:
        >>> plans = ChosenPlans()
        >>> plans.restore([((1, 0, 4, 5, 3, 10), 2, True, 2)], threads=2)
        >>> plans.saved()
        [((1, 0, 4, 5, 3, 10), 2, True, 2)]
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[int, ...], Plan] = {}

    def get(self, adaptation: Adaptation, episode: Episode) -> Plan | None:
        """The plan chosen for episodes of this size; None if there is none."""
        return self._plans.get(sizes_of(adaptation, episode))

    def choose(self, adaptation: Adaptation, episode: Episode, plan: Plan | None) -> None:
        """Use this plan for episodes of this size from now on, or the usual one again if it is None."""
        key = sizes_of(adaptation, episode)
        if plan is None:
            self._plans.pop(key, None)
        else:
            self._plans[key] = plan

    def clear(self) -> None:
        """Use the usual plans again."""
        self._plans.clear()

    def saved(self) -> list[SavedPlan]:
        """The plans as values that a file can hold."""
        return [(sizes, plan.tasks, plan.batched, plan.threads) for sizes, plan in self._plans.items()]

    def restore(self, plans: Iterable[SavedPlan], threads: int) -> None:
        """Choose plans that :meth:`saved` gave.

        Args:
            plans: the plans.
            threads: the number of threads that a plan has now. Plans for another number are left out: they are of
                another machine, which may have had less memory.
        """
        for sizes, tasks, batched, plan_threads in plans:
            if plan_threads == threads:
                self._plans[sizes] = Plan(tasks, batched, threads)
