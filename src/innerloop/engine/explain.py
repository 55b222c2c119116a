"""``Explanation``: how an engine computes, in words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """How an engine computes. :meth:`innerloop.Engine.explain` makes it.

    Attributes:
        plan: how the tasks of the latest meta-batch were run. It is empty before the first.
        threads: the threads of the chunks, and the reason if there are not more.
        kernels: whether compiled kernels are used, or the reason why not.
        recordings: for each kind of call, whether it is recorded, or the reason why not. The latest kind is last.

    Example:
        >>> print(Explanation("8 tasks together", "the caller's thread", "compiled", ("recorded, and used 3 times",)))
        plan: 8 tasks together
        threads: the caller's thread
        kernels: compiled
        recordings: recorded, and used 3 times
    """

    plan: str
    threads: str
    kernels: str
    recordings: tuple[str, ...]

    def __str__(self) -> str:
        recordings = "\n            ".join(self.recordings) or "none yet"
        plan = self.plan or "none yet"
        return f"plan: {plan}\nthreads: {self.threads}\nkernels: {self.kernels}\nrecordings: {recordings}"
