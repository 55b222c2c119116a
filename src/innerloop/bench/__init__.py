"""Speed and memory beside other libraries, after checking that all of them compute the same.

Every contender gets a copy of the same network and the same episodes of random images. First the gradients are
compared. Then the contenders take turns, and a ratio is the median over rounds of the ratio within a round. Last,
each runs alone in a process of its own, which tells its memory. All have the same number of threads.
"""

from innerloop.bench.agreement import DisagreementError
from innerloop.bench.options import BenchError, Options
from innerloop.bench.run import run_benchmark

__all__ = ["BenchError", "DisagreementError", "Options", "run_benchmark"]
