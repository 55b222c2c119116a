"""The benchmark: the speed and memory of innerloop beside other libraries.

Every contender gets a copy of the same network, the same episodes of random images, and the same number of threads.
First the gradients are compared, to check that all contenders compute the same. Then the contenders take turns, and
are timed. A ratio of two is the median over rounds of their ratio within a round. Last, each contender runs alone in a
process of its own, which measures its first call and its memory.
"""

from innerloop.bench.agreement import DisagreementError
from innerloop.bench.options import BenchError, Options
from innerloop.bench.run import run_benchmark

__all__ = ["BenchError", "DisagreementError", "Options", "run_benchmark"]
