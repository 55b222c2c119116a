"""The report as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from innerloop.bench.contenders import OURS
from innerloop.plots.style import figure, save

__all__ = ["draw"]


def draw(path: Path, rows: Sequence[Mapping[str, Any]], title: str, sweep: str | None = None) -> None:
    """Draw time and memory of every contender: as bars for each row, or as lines along a sweep.

    Args:
        path: the PNG file.
        rows: the results of :func:`innerloop.bench.measure.measure`.
        title: the title above the picture.
        sweep: the size that varies from row to row, if one does.
    """
    panels = [("seconds", "seconds", 1.0)]
    if any(size is not None for row in rows for size in row["peak_memory"].values()):
        panels.append(("peak_memory", "peak memory, MiB", 2.0**20))
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"]))
    width = 6.5 if sweep else max(6.5, 1.3 * len(rows) + 2)
    picture = figure(width * len(panels), 4.5)
    picture.suptitle(title, fontsize=10)
    for axes, (field, label, unit) in zip(picture.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for index, name in enumerate(names):
            style = {"label": name, "color": "black" if name == OURS else f"C{index % 10}"}
            at = [i for i, row in enumerate(rows) if row[field].get(name) is not None]
            values = [rows[i][field][name] / unit for i in at]
            if sweep:
                axes.plot([rows[i]["sizes"][sweep] for i in at], values, marker=".", **style)
            else:
                offset = (index - (len(names) - 1) / 2) * 0.8 / len(names)
                axes.bar([i + offset for i in at], values, 0.8 / len(names), **style)
        axes.set(ylabel=label, yscale="log")
        if sweep:
            axes.set(xlabel=sweep if sweep != "steps" else "inner steps", xscale="log")
            axes.set_xticks([row["sizes"][sweep] for row in rows], [str(row["sizes"][sweep]) for row in rows])
            axes.minorticks_off()
        else:
            axes.set_xticks(range(len(rows)), [_short(row) for row in rows], fontsize=8)
        axes.grid(alpha=0.3, axis="both" if sweep else "y")
    picture.axes[0].legend(fontsize=8)
    save(picture, path)


def _short(row: Mapping[str, Any]) -> str:
    return f"{row['network']}\n{', '.join(str(size) for size in row['sizes'].values())}"
