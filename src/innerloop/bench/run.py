"""Run the benchmark: from its settings to its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from innerloop.bench.contenders import missing_peers
from innerloop.bench.measure import measure
from innerloop.bench.options import Options
from innerloop.bench.peers import Spec
from innerloop.bench.plot import draw
from innerloop.bench.report import heading, machine, table, throughput_lines, versions
from innerloop.bench.throughput import throughput

__all__ = ["run_benchmark"]


def run_benchmark(options: Options, say: Callable[[str], None], plot: Path | None = None) -> dict[str, Any]:
    """Measure, report line by line, and return all results.

    Args:
        options: what to measure, and how.
        say: called with each line of the report.
        plot: a PNG file to draw. It is drawn again after each row.

    Returns:
        What ``--json`` prints: the versions, the machine, the settings and ``rows``. Each row has the ``sizes``, the
        median ``seconds`` of every contender after warming up, the seconds of its ``first_call`` and its
        ``peak_memory`` in bytes, both in a process of its own (None if unknown), ``ratio_to_fastest_peer`` (innerloop's
        time divided by the fastest peer's, below 1 if innerloop is faster), ``times_fastest_peer`` (the inverse ratio),
        ``fraction_of_matmul_rate`` and more.

    Raises:
        DisagreementError: contenders do not compute the same gradient.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    used, where = versions(), machine()
    missing = missing_peers(Spec(options.what, 0.1, 1)) if options.peers else {}
    report: dict[str, Any] = {"what": options.what, "versions": used, "machine": where, "threads": where["threads"]}
    if options.throughput:
        for line in heading(used, where, {}):
            say(line)
        report["throughput"] = throughput(options)
        for line in throughput_lines(report["throughput"]):
            say(line)
        return report
    for line in heading(used, where, missing):
        say(line)
    rows: list[dict[str, Any]] = []
    report |= {
        "rounds": options.rounds,
        "clock": options.clock,
        "sweep": options.sweep,
        "missing": missing,
        "rows": rows,
    }
    for row in options.chosen():
        rows.append(measure(row, options))
        for line in table(rows[-1]):
            say(line)
        if plot is not None:
            title = f"one meta-gradient ({options.what}), {where['threads']} threads, {where['cpu']}"
            draw(plot, rows, title, options.sweep)
    return report
