"""The record of a training run: ``metrics.jsonl``, TensorBoard events and a progress bar."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from innerloop.extras import MissingExtraError
from innerloop.learner.files import read_bytes, write_atomically
from innerloop.learner.schema import Number, Record, Whole
from innerloop.metagrad.base import Info
from innerloop.training.events import Events

__all__ = ["RunLog", "RunningMeans", "read_metrics"]

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Shows the progress of training on a terminal, and writes the metrics to a folder if there is one.

    Args:
        iterations: the number of iterations of the run.
        done: the number of iterations that are done. Records of later iterations are removed from the folder.
        folder: the folder for metrics, or None.
        progress: whether to show a bar. None shows it only on a terminal. Without a bar, each validation prints a line.
    """

    def __init__(self, iterations: int, done: int, *, folder: Path | None = None, progress: bool | None = None) -> None:
        from tqdm import tqdm

        self._folder = folder
        self._events: Events | None = None
        self._shown: dict[str, str] = {}
        self._since = (time.monotonic(), 0)
        disable = None if progress is None else not progress
        self._bar = tqdm(total=iterations, initial=done, disable=disable, unit="it", dynamic_ncols=True, smoothing=0.05)
        self._quiet = progress is False
        if folder is not None:
            _drop_after(folder, done, self.say)
            try:
                self._events = Events(folder, done)
            except MissingExtraError as error:
                self.say(f"no TensorBoard events are written: {error}")

    def advance(self, tasks: int) -> None:
        """Note that an iteration with this number of tasks is done."""
        self._bar.update()
        self._since = (self._since[0], self._since[1] + tasks)

    def say(self, text: str) -> None:
        """Print a line on standard error, beside the bar."""
        if not self._quiet:
            self._bar.write(text, file=sys.stderr)

    def train(self, record: Mapping[str, float]) -> None:
        """Show and write the means since the last record."""
        started, tasks = self._since
        rate = tasks / max(time.monotonic() - started, 1e-9)
        self._since = (time.monotonic(), 0)
        loss = record.get("loss", record.get("support_loss", math.nan))
        self._show(loss=f"{loss:.3f}", **_percent(record, "accuracy", "acc"))
        self._show(**{"tasks/s": f"{rate:.0f}"})
        self._keep({**record, "tasks_per_second": rate}, "train")

    def validation(self, record: Mapping[str, float], *, best: bool) -> None:
        """Show and write the result of a validation."""
        self._show(**_percent(record, "val_accuracy", "val"))
        if "val_accuracy" not in record:
            self._show(val=f"{record['val_loss']:.3f}")
        if self._bar.disable and not self._quiet:
            shown = ", ".join(f"{name} {value}" for name, value in self._shown.items())
            print(  # noqa: T201
                f"iteration {int(record['iteration'])}: {shown}{' (best so far)' if best else ''}",
                file=sys.stderr,
                flush=True,
            )
        self._keep(record, "validation")

    def close(self) -> None:
        """Finish the bar and the event file."""
        self._bar.close()
        if self._events is not None:
            self._events.close()

    def _show(self, **values: str) -> None:
        self._shown.update(values)
        self._bar.set_postfix(self._shown, refresh=False)

    def _keep(self, record: Mapping[str, float], group: str) -> None:
        if self._folder is None:
            return
        with (self._folder / METRICS_FILE).open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")
        if self._events is not None:
            for name, value in record.items():
                if name != "iteration":
                    self._events.add(f"{group}/{name.removeprefix('val_')}", value, int(record["iteration"]))


class RunningMeans:
    """Sums of the losses and accuracies since the last record. They stay on the device until they are read."""

    def __init__(self, iterations: int = 0, sums: dict[str, Tensor] | None = None) -> None:
        self.iterations, self.sums = iterations, sums or {}

    def add(self, info: Info) -> None:
        """Add an iteration."""
        observed = {"loss": info.loss, "accuracy": info.query_accuracy}
        if info.support_losses.shape[1]:
            observed["support_loss"] = info.support_losses[:, -1]
        for name, values in observed.items():
            if values is not None:
                mean = values.mean().double()
                self.sums[name] = self.sums[name].to(mean.device) + mean if name in self.sums else mean
        self.iterations += 1

    def means(self) -> dict[str, float]:
        """The means over the iterations."""
        return {name: float(total) / self.iterations for name, total in self.sums.items()}

    def state(self) -> dict[str, Any]:
        """The arguments that make an equal window."""
        return {"iterations": self.iterations, "sums": dict(self.sums)}


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


def _drop_after(folder: Path, iteration: int, say: Callable[[str], None]) -> None:
    """Remove damaged lines, and records of iterations after the checkpoint, which will be made again.

    If a line is damaged, a copy of the file is kept.
    """
    path = folder / METRICS_FILE
    records, damaged = _read(path)
    if damaged:
        copy = path.with_name(f"{METRICS_FILE}.damaged")
        write_atomically(copy, read_bytes(path))
        lines = ("line " if len(damaged) == 1 else "lines ") + ", ".join(map(str, damaged[:10]))
        more = f" and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        say(f"{path} is damaged in {lines}{more}: the other lines are kept, and the whole file as {copy.name}")
    kept = [record for record in records if record["iteration"] <= iteration]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept).encode())


def _percent(record: Mapping[str, float], key: str, label: str) -> dict[str, str]:
    return {label: f"{100 * record[key]:.1f}%"} if key in record else {}
