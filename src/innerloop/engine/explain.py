"""``Explanation``: how an engine computes, in words."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.engine.runtime import runtime

__all__ = ["Explanation", "threads_in_words"]


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


def threads_in_words(bound: str | None, *, draws: bool, compiled: bool) -> str:
    """The threads of the chunks.

    Args:
        bound: what keeps the chunks in the caller's thread; None if nothing does.
        draws: whether the model draws random numbers.
        compiled: whether graphs are compiled.
    """
    if not (bound or draws or compiled):
        return f"{runtime.cores()}, as many as torch.get_num_threads() says"
    why = bound or ("random numbers, which come in one order" if draws else "compiled graphs")
    return f"chunks take turns in the caller's thread, because of {why}"
