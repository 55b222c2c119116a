"""``innerloop bench``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from innerloop.bench import DisagreementError, run_benchmark
from innerloop.cli.arguments import BenchArguments, UsageError, parse
from innerloop.extras import need

__all__ = ["bench"]


def bench(argv: Sequence[str]) -> int:
    """Run the benchmark. Return 0, or 1 if gradients differ.

    Raises:
        UsageError: the command line has a mistake.
    """
    arguments = parse(BenchArguments, "bench", argv)
    if arguments.plot is not None and arguments.options.throughput:
        raise UsageError("--plot draws rows, and --throughput has none; leave out one of the two")
    if arguments.plot is not None and not arguments.plot.absolute().parent.is_dir():
        raise UsageError(f"--plot is {arguments.plot}, whose folder does not exist; create it")
    if arguments.plot is not None:
        need("plots")
    try:
        report = run_benchmark(arguments.options, _say, arguments.plot)
    except DisagreementError as error:
        print(f"innerloop: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(report))
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
