"""Plans: how many tasks of a meta-batch run together, and on how many threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args
from weakref import WeakKeyDictionary

from innerloop.engine.kernels import packable, why_no_kernels
from innerloop.engine.runtime import runtime
from innerloop.episode import Episode
from innerloop.inner.adaptation import Adaptation
from innerloop.inner.model import StatelessModel
from innerloop.inner.selection import partition

__all__ = ["Execution", "Plan", "candidates", "checked", "planned", "sizes_of"]

Execution = Literal["auto", "serial", "batched"] | int
"""How the tasks of a meta-batch are run: one by one (``serial``), all together (``batched``), a number at a time, or
as the engine decides (``auto``).

``auto`` runs tasks in chunks that are small enough for a CPU's cache and memory. Each chunk runs on one thread. If the
model cannot be batched, the tasks run one by one. :meth:`innerloop.engine.engine.Engine.calibrate` chooses by timing.
"""

CACHE_ELEMENTS = 250_000
"""The number of input elements of a chunk on a CPU.

Half or twice as many take the same time, within a twentieth. Memory is proportional (docs/performance.md).
"""

IMAGE_ELEMENTS = 32_000
"""The same number if the compiled kernels convolve images. Activations are then many times as large as the images.

More tasks at once would not be faster, because the kernels work on one task after another. They would take more space
in the cache between two layers, and more memory.
"""

IMAGE_ELEMENTS_UNRECORDED = 128_000
"""The same number if nothing is recorded. Each chunk then costs what Python, autograd and ``vmap`` take."""

WEIGHT_ELEMENTS = 8_000_000
"""The most adapted weights in all iterates of a chunk on a CPU. Beyond that number, memory costs more than chunks do.

These weights do not fit in a cache. In the first step all tasks share their weights, and products with shared weights
are faster with more tasks.
"""


@dataclass(frozen=True)
class Plan:
    """A way to run the tasks of a meta-batch.

    Attributes:
        tasks: the number of tasks that run together.
        batched: whether ``torch.func.vmap`` runs them together. Otherwise a loop runs them one by one.
        threads: the number of chunks that run side by side on a CPU, each on one thread.

    Example:
        >>> str(Plan(8, threads=2))
        '8 tasks together, on 2 threads'
    """

    tasks: int
    batched: bool = True
    threads: int = 1

    def __str__(self) -> str:
        how = ("1 task" if self.tasks == 1 else f"{self.tasks} tasks together") if self.batched else "tasks one by one"
        return how + ("" if self.threads == 1 else f", on {self.threads} threads")

    @property
    def execution(self) -> Execution:
        """The value of ``execution`` that gives this plan again, with the same number of threads."""
        return self.tasks if self.batched else "serial"


def checked(execution: Execution) -> Execution:
    """Return ``execution`` if it is a way to run tasks.

    Raises:
        ValueError: it is none.
    """
    names = [name for choice in get_args(Execution) for name in get_args(choice)]
    good = execution >= 1 if isinstance(execution, int) else execution in names
    if isinstance(execution, bool) or not good:
        raise ValueError(
            f"execution is {execution!r}; choose 'auto', 'serial', 'batched' or a positive number of tasks"
        )
    return execution


def planned(
    execution: Execution, model: StatelessModel, adaptation: Adaptation, episode: Episode, *, recorded: bool = True
) -> Plan:
    """The plan for an episode.

    It depends only on sizes, the number of threads, and whether calls may be recorded. So the same run has the same
    plan.
    """
    threads = runtime.cores() if episode.support_x.is_cpu else 1
    if execution == "serial":
        return Plan(1, batched=False, threads=threads)
    if execution == "batched":
        return Plan(episode.tasks)
    if isinstance(execution, int):
        return Plan(execution, threads=threads)
    if not episode.support_x.is_cpu:
        return Plan(episode.tasks)
    support, queries = episode.support_x.shape[1], episode.query_x.shape[1]
    if model.norm == "inductive" and model.mixes_examples:
        queries *= support + 1
    examples = min(support, adaptation.batch_size or support) + queries
    elements = examples * max(1, episode.support_x[0, 0].numel())
    if not episode.support_x.is_floating_point():  # indices of words
        elements *= model.embedding_width
    weights = _adapted(model, adaptation.adapt) * (adaptation.steps + 1)
    images = IMAGE_ELEMENTS if recorded else IMAGE_ELEMENTS_UNRECORDED
    most = images if _convolves(model) and why_no_kernels() is None else CACHE_ELEMENTS
    rounds = max(1, round(episode.tasks * max(elements / most, weights / WEIGHT_ELEMENTS) / threads))
    return Plan(-(-episode.tasks // (rounds * threads)), threads=threads)


def candidates(
    execution: Execution, model: StatelessModel, adaptation: Adaptation, episode: Episode, *, recorded: bool = True
) -> list[Plan]:
    """The plans worth timing. The first is the one that :func:`planned` gives."""
    first = planned(execution, model, adaptation, episode, recorded=recorded)
    if execution != "auto":
        return [first]
    if not episode.support_x.is_cpu:
        return [first, Plan(-(-episode.tasks // 2)), Plan(-(-episode.tasks // 4))]
    share = -(-episode.tasks // first.threads)
    sizes = {
        max(1, min(share, size))
        for size in (share, first.tasks // 4, first.tasks // 2, 2 * first.tasks, 4 * first.tasks)
    } - {first.tasks}
    others = [Plan(size, threads=first.threads) for size in sorted(sizes)]
    return [first, *others, Plan(1, batched=False, threads=first.threads)]


def _adapted(model: StatelessModel, patterns: str) -> int:
    """The number of weights that the inner loop adapts."""
    known = _counts.setdefault(model, {})
    if patterns not in known:
        known[patterns] = sum(t.numel() for t in partition(model.initial, patterns)[0].values())
    return known[patterns]


def _convolves(model: StatelessModel) -> bool:
    """Whether the model has convolutions that the kernels compute."""
    if model not in _convolving:
        _convolving[model] = any(True for _ in packable(model.module))
    return _convolving[model]


_convolving: WeakKeyDictionary[StatelessModel, bool] = WeakKeyDictionary()
_counts: WeakKeyDictionary[StatelessModel, dict[str, int]] = WeakKeyDictionary()


def sizes_of(adaptation: Adaptation, episode: Episode) -> tuple[int, ...]:
    """The sizes that a plan depends on."""
    return (adaptation.steps, adaptation.batch_size or 0, *episode.support_x.shape, episode.query_x.shape[1])
