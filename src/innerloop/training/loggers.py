"""Loggers: callbacks that write the numbers of a training to a file or to a service."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from innerloop.extras import MissingExtraError, extra, need
from innerloop.learner.files import CheckpointError, read_bytes, write_atomically
from innerloop.learner.schema import TEXT, Record
from innerloop.training.callbacks import Callback, Training
from innerloop.training.events import Events
from innerloop.training.metrics import METRICS_FILE, drop_after
from innerloop.training.signals import TrainingStopped

__all__ = ["CSVLogger", "MetricsFile", "TensorBoardLogger", "WandbLogger", "loggers_of_a_folder"]


def loggers_of_a_folder(given: Sequence[Callback], say: Callable[[str], None]) -> list[Callback]:
    """The loggers that a run with a folder has: ``metrics.jsonl``, and TensorBoard events if TensorBoard is installed.

    Args:
        given: the callbacks of the user. A kind of logger that is among them is not added.
        say: is told if TensorBoard is not installed.
    """
    loggers: list[Callback] = [MetricsFile()]
    try:
        need("tensorboard")
        loggers.append(TensorBoardLogger())
    except MissingExtraError as error:
        say(f"no TensorBoard events are written: {error}")
    return [logger for logger in loggers if type(logger) not in map(type, given)]


class MetricsFile(Callback):
    """Writes ``metrics.jsonl`` into the run's folder, a line for each record.

    A run that resumes first removes the records of iterations after its checkpoint, which will be made again.
    """

    def __init__(self) -> None:
        self._path: Path | None = None

    def on_start(self, training: Training) -> None:
        """Remove what will be made again."""
        folder = _folder(training, self)
        drop_after(folder, training.iteration, training.say)
        self._path = folder / METRICS_FILE

    def on_record(self, training: Training, record: Mapping[str, float]) -> None:
        """Write a line."""
        assert self._path is not None
        with self._path.open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")


class CSVLogger(Callback):
    """Writes the numbers of a training as a table: a row for each record, a column for each number.

    A cell is empty where a record does not have the number. A run that resumes first removes the rows of iterations
    after its checkpoint, which will be made again.

    Args:
        path: the file. None means ``metrics.csv`` in the run's folder.

    Raises:
        ValueError: when training starts: ``path`` is None and the run has no folder, or the file is not such a table.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile, torch, innerloop as il
        >>> loss_fn = torch.nn.functional.mse_loss
        >>> trainer = il.MetaTrainer(il.nets.mlp(), il.maml(0.01), torch.optim.Adam, loss_fn=loss_fn)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "metrics.csv"
        ...     trainer.fit(il.data.sinusoids().episodes(), 4, log_every=2, callbacks=[CSVLogger(path)], progress=False)
        ...     print(path.read_text().splitlines()[0])
        iteration,loss,support_loss,outer_lr,tasks_per_second
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._columns: list[str] = []

    def on_start(self, training: Training) -> None:
        """Keep the rows of the iterations that are done."""
        path = self.path = self.path or _folder(training, self) / "metrics.csv"
        rows = [row for row in self._rows(path) if float(row["iteration"]) <= training.iteration]
        self._columns = list(rows[0]) if rows else ["iteration"]
        self._write(rows)

    def on_record(self, training: Training, record: Mapping[str, float]) -> None:
        """Write a row. If the record has new numbers, the table gets columns for them."""
        assert self.path is not None
        if new := [name for name in record if name not in self._columns]:
            rows = self._rows(self.path)
            self._columns += new
            self._write([*rows, record])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns, restval="", lineterminator="\n").writerow(record)

    def _rows(self, path: Path) -> list[dict[str, str]]:
        if not path.exists():
            return []
        try:
            reader = csv.DictReader(io.StringIO(read_bytes(path).decode()))
            # A kill can leave a last row that is cut off.
            rows = [row for row in reader if None not in row.values() and None not in row]
            for row in rows:
                float(row["iteration"])
        except (UnicodeDecodeError, csv.Error, KeyError, ValueError, CheckpointError) as error:
            raise ValueError(f"{path} is no table that CSVLogger wrote ({error!r}); move it, or give another") from None
        return rows

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        assert self.path is not None
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())


class TensorBoardLogger(Callback):
    """Writes the numbers of a training for TensorBoard, under ``train/`` and ``validation/``.

    A training with a folder does this without being asked, if TensorBoard is installed.

    Args:
        folder: the folder for the events. None means the run's folder.

    Raises:
        MissingExtraError: when training starts: TensorBoard is not installed.
        ValueError: when training starts: ``folder`` is None and the run has none.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._events: Events | None = None

    def on_start(self, training: Training) -> None:
        """Open an event file."""
        folder = self.folder or _folder(training, self)
        folder.mkdir(parents=True, exist_ok=True)
        self._events = Events(folder, training.iteration)

    def on_record(self, training: Training, record: Mapping[str, float]) -> None:
        """Write each number."""
        assert self._events is not None
        for name, value in record.items():
            if name != "iteration":
                self._events.add(grouped(name), value, int(record["iteration"]))

    def on_end(self, training: Training, error: BaseException | None) -> None:
        """Close the file."""
        if self._events is not None:
            self._events.close()
            self._events = None


class WandbLogger(Callback):
    """Sends the numbers of a training to Weights & Biases, under ``train/`` and ``validation/``.

    The run's checkpoint keeps the identifier of the W&B run, so that a training that resumes goes on with the same one.
    The environment variables of W&B apply; ``WANDB_MODE=offline`` writes to the disk only.

    Args:
        project: the W&B project. None means W&B's default.
        name: the name of the W&B run. None means the name of the run's folder, if it has one.
        config: the settings to show with the run.
        settings: further arguments of ``wandb.init``, such as ``entity``, ``tags`` or ``mode``.

    Raises:
        MissingExtraError: when training starts: wandb is not installed.
    """

    def __init__(
        self,
        project: str | None = None,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.project, self.name, self.config, self.settings = project, name, dict(config or {}), settings
        self.run_id: str | None = None
        self._run: Any = None

    def on_start(self, training: Training) -> None:
        """Begin a W&B run, or go on with it."""
        with extra("wandb"):
            import wandb
        name = self.name or (None if training.folder is None else training.folder.resolve().name)
        again = {} if self.run_id is None else {"id": self.run_id, "resume": "allow"}
        self._run = wandb.init(
            project=self.project,
            name=name,
            config={"method": str(training.trainer.method), "seed": training.trainer.seed, **self.config},
            **again,
            **self.settings,
        )
        self.run_id = self._run.id
        # A resumed training repeats iterations after its checkpoint. W&B would drop steps that go back.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def on_record(self, training: Training, record: Mapping[str, float]) -> None:
        """Send the numbers."""
        self._run.log({grouped(name): value for name, value in record.items()})

    def on_end(self, training: Training, error: BaseException | None) -> None:
        """Finish the W&B run. It counts as failed if an error ended the training, other than a signal."""
        if self._run is not None:
            self._run.finish(exit_code=int(not (error is None or isinstance(error, TrainingStopped))))
            self._run = None

    def state(self) -> dict[str, Any]:
        """The identifier of the W&B run."""
        return {} if self.run_id is None else {"run_id": self.run_id}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on with the W&B run."""
        Record({"run_id": TEXT}).check(state, "")
        self.run_id = state["run_id"]


def grouped(name: str) -> str:
    """The name of a number with its group.

    Example:
        >>> grouped("loss"), grouped("val_loss"), grouped("iteration")
        ('train/loss', 'validation/loss', 'iteration')
    """
    if name == "iteration":
        return name
    return f"validation/{name.removeprefix('val_')}" if name.startswith("val_") else f"train/{name}"


def _folder(training: Training, logger: Callback) -> Path:
    if training.folder is None:
        kind = type(logger).__name__
        raise ValueError(f"{kind} has no place to write to; pass fit(folder=...), or give the {kind} one of its own")
    return training.folder
