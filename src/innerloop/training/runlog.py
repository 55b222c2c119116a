"""What training shows on a terminal, and the means that it shows."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from innerloop.metagrad.base import Info

__all__ = ["RunLog", "RunningMeans"]


class RunLog:
    """Shows the progress of training on a terminal.

    Args:
        iterations: the number of iterations of the run.
        done: the number of iterations that are done.
        progress: whether to show a bar. None shows it only on a terminal. Without a bar, each validation prints a line.
    """

    def __init__(self, iterations: int, done: int, *, progress: bool | None = None) -> None:
        from tqdm import tqdm

        self._shown: dict[str, str] = {}
        self._since = (time.monotonic(), 0)
        disable = None if progress is None else not progress
        self._bar = tqdm(total=iterations, initial=done, disable=disable, unit="it", dynamic_ncols=True, smoothing=0.05)
        self._quiet = progress is False

    def advance(self, tasks: int) -> None:
        """Note that an iteration with this number of tasks is done."""
        self._bar.update()
        self._since = (self._since[0], self._since[1] + tasks)

    def rate(self) -> float:
        """The number of tasks per second since this was last asked."""
        started, tasks = self._since
        self._since = (time.monotonic(), 0)
        return tasks / max(self._since[0] - started, 1e-9)

    def say(self, text: str) -> None:
        """Print a line on standard error, beside the bar."""
        if not self._quiet:
            self._bar.write(text, file=sys.stderr)

    def train(self, record: Mapping[str, float]) -> None:
        """Show the means since the last record."""
        loss = record.get("loss", record.get("support_loss", math.nan))
        self._show(loss=f"{loss:.3f}", **_percent(record, "accuracy", "acc"))
        self._show(**{"tasks/s": f"{record['tasks_per_second']:.0f}"})

    def validation(self, record: Mapping[str, float], *, best: bool) -> None:
        """Show the result of a validation."""
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

    def close(self) -> None:
        """Finish the bar."""
        self._bar.close()

    def _show(self, **values: str) -> None:
        self._shown.update(values)
        self._bar.set_postfix(self._shown, refresh=False)


class RunningMeans:
    """Sums of the losses and accuracies since the last record. They stay on the device until they are read."""

    def __init__(self) -> None:
        self.iterations = 0
        self.sums: dict[str, Tensor] = {}

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

    def taken(self) -> dict[str, float]:
        """The means over the iterations. The sums then start anew."""
        means = {name: float(total) / self.iterations for name, total in self.sums.items()}
        self.iterations, self.sums = 0, {}
        return means

    def state(self) -> dict[str, Any]:
        """The fields of a checkpoint."""
        return {"iterations": self.iterations, "sums": dict(self.sums)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the fields of a checkpoint."""
        self.iterations, self.sums = state["iterations"], dict(state["sums"])


def _percent(record: Mapping[str, float], key: str, label: str) -> dict[str, str]:
    return {label: f"{100 * record[key]:.1f}%"} if key in record else {}
