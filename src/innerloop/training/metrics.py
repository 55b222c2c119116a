"""``metrics.jsonl``: the records of a run, one a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from innerloop.display import first_few
from innerloop.learner.files import read_bytes, write_atomically
from innerloop.learner.schema import Number, Record, Whole

__all__ = ["METRICS_FILE", "drop_after", "read_metrics"]

METRICS_FILE = "metrics.jsonl"
"""The name of the file in the folder of a run."""

RECORD = Record({"iteration": Whole(0)}, others=Number(finite=False))
"""A line of ``metrics.jsonl``."""


class _Metrics(NamedTuple):
    """The contents of ``metrics.jsonl``.

    Attributes:
        records: the records, one for each line.
        damaged: the numbers of damaged lines, from 1. A last line without a line end does not count, because a kill can
            leave such a line.
    """

    records: list[dict[str, float]]
    damaged: list[int]


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The records of a run. Damaged lines, and a last line that a kill cut off, are left out.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return _read(folder / METRICS_FILE).records


def _read(path: Path) -> _Metrics:
    if not path.exists():
        return _Metrics([], [])
    records: list[dict[str, float]] = []
    damaged = []
    *lines, last = read_bytes(path).split(b"\n")
    for number, line in enumerate([*lines, last], 1):
        try:
            record = json.loads(line.decode())
            RECORD.check(record, "")
        except (ValueError, RecursionError):  # not UTF-8, not JSON, or not such a record
            if number <= len(lines):
                damaged.append(number)
        else:
            records.append(record)
    return _Metrics(records, damaged)


def drop_after(folder: Path, iteration: int, say: Callable[[str], None]) -> None:
    """Remove damaged lines, and records of iterations after the checkpoint, which will be made again.

    If a line is damaged, a copy of the file is kept.
    """
    path = folder / METRICS_FILE
    records, damaged = _read(path)
    if damaged:
        copy = path.with_name(f"{METRICS_FILE}.damaged")
        write_atomically(copy, read_bytes(path))
        lines = ("line " if len(damaged) == 1 else "lines ") + first_few(damaged, most=10)
        say(f"{path} is damaged in {lines}: the other lines are kept, and the whole file as {copy.name}")
    kept = [record for record in records if record["iteration"] <= iteration]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())
