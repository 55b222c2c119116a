"""Training curves: what a run logged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from innerloop.plots.style import COLOURS, FAINT, Ending, figure, headed, label_ends, on_axes, plain
from innerloop.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["all_curves", "curves"]

Metric = Literal["accuracy", "loss"]
Records = list[dict[str, float]]
SHADED = "shaded: 95 % interval over tasks"


@dataclass(frozen=True)
class _Line:
    name: str
    iterations: list[float]
    values: list[float]
    interval: list[float]
    colour: str
    width: float = 1.8


def curves(run: str | Path | Mapping[str, str | Path], *, metric: Metric | None = None, ax: Axes | None = None) -> Axes:
    """Draw the training curves of a run, or the validation curves of several.

    For one run there are two lines: training, which is the mean over the tasks since the last record, and validation
    with its 95 % interval over tasks. For several there is the validation of each, or training where there is none.

    Args:
        run: the folder of a run, or the folders of several by the names to show.
        metric: ``accuracy`` or ``loss``. None takes the accuracy if the runs have one.
        ax: the axes to draw on. None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: the runs logged no such numbers.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import tempfile, torch, innerloop as il
        >>> from torch.nn.functional import mse_loss
        >>> tasks = il.data.sinusoids().episodes(tasks=4)
        >>> trainer = il.MetaTrainer(il.nets.mlp(), il.maml(0.01), torch.optim.Adam, loss_fn=mse_loss)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer.fit(tasks, 6, folder=folder, log_every=2, progress=False)
        ...     curves(folder).get_xlabel()
        'iteration'
    """
    folders = {name: Path(folder) for name, folder in run.items()} if isinstance(run, Mapping) else {"": Path(run)}
    records = {name: read_metrics(folder) for name, folder in folders.items()}
    if metric is None:
        metric = "accuracy" if all(map(_has_accuracy, records.values())) else "loss"
    series = _of_one(records[""], metric) if list(records) == [""] else _of_several(records, metric)
    if not series:
        raise ValueError(f"{', '.join(map(str, folders.values()))}: there are no records of the {metric}")
    ax = on_axes(ax)
    scale = 100 if metric == "accuracy" else 1
    endings = []
    for line in series:
        y = [scale * value for value in line.values]
        ax.plot(line.iterations, y, color=line.colour, linewidth=line.width, zorder=line.width)
        if line.interval:
            low, high = zip(
                *((v - scale * h, v + scale * h) for v, h in zip(y, line.interval, strict=True)), strict=True
            )
            ax.fill_between(line.iterations, low, high, color=line.colour, alpha=0.15, linewidth=0)
        endings.append(Ending(line.iterations[-1], y[-1], line.name, line.colour))
    plain(ax)
    ax.set(xlabel="iteration", xlim=(0, max(line.iterations[-1] for line in series)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if metric == "accuracy":
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    notes = ["validation"] * (len(folders) > 1) + [SHADED] * any(line.interval for line in series)
    headed(ax, metric.capitalize(), "; ".join(notes))
    label_ends(ax, endings)
    return ax


def all_curves(folder: Path, title: str = "") -> Figure | None:
    """A figure with all curves of a run: the loss, and the accuracy if it has one. None if nothing was logged.

    Args:
        folder: the folder of the run.
        title: the title above the figure.
    """
    records = read_metrics(folder)
    metrics: list[Metric] = [name for name in ("accuracy", "loss") if _of_one(records, name)]
    if not metrics:
        return None
    made = figure(5.6 * len(metrics), 3.7)
    for ax, metric in zip(made.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        curves(folder, metric=metric, ax=ax)
    if title:
        made.suptitle(title, x=0.01, ha="left", fontsize=9, color=FAINT)
    return made


def _has_accuracy(records: Records) -> bool:
    return any("accuracy" in record or "val_accuracy" in record for record in records)


def _line(records: Records, name: str, key: str, colour: str, width: float = 1.8) -> list[_Line]:
    """The line of one number; empty if no record has it."""
    rows = [record for record in records if math.isfinite(record.get(key, math.nan))]
    if not rows:
        return []
    # A run's interval is that of its score: the accuracy, or for regression the loss.
    is_score = key == "val_accuracy" or (key == "val_loss" and "val_accuracy" not in rows[0])
    interval = [record.get("val_ci95", math.nan) for record in rows] if is_score else []
    return [_Line(name, [r["iteration"] for r in rows], [r[key] for r in rows], interval, colour, width)]


def _of_one(records: Records, metric: Metric) -> list[_Line]:
    # Reptile has no loss of queries in training: the one after its last inner step stands for it.
    own = _line(records, "training", metric, COLOURS[4], 1.0)
    if not own and metric == "loss":
        own = _line(records, "training\n(support set)", "support_loss", COLOURS[4], 1.0)
    return own + _line(records, "validation", f"val_{metric}", COLOURS[0])


def _of_several(runs: Mapping[str, Records], metric: Metric) -> list[_Line]:
    lines = []
    for index, (name, records) in enumerate(runs.items()):
        colour = COLOURS[index % len(COLOURS)]
        own = _line(records, name, f"val_{metric}", colour)
        lines += own or _line(records, f"{name} (training)", metric, colour)
    return lines
