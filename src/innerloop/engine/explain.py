"""What an engine does to be fast, and why it does not do more, in words."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """How an engine computes; made by :meth:`innerloop.Engine.explain`.

    Attributes:
        plan: how the tasks of the latest meta-batch were run; empty before the first.
        threads: what the chunks ran on, and why not on more threads.
        kernels: whether compiled kernels are used, or why not.
        recordings: of each kind of call, the latest last, whether it is recorded, and if not, why.

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
