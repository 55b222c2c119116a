"""A picture of a run's training and validation curves."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from innerloop.extras import extra
from innerloop.learner.files import write_atomically
from innerloop.training.metrics import read_metrics

__all__ = ["draw_curves"]


def draw_curves(folder: Path) -> None:
    """Draw ``curves.png`` from ``metrics.jsonl``. Without records, nothing is drawn."""
    records = read_metrics(folder)
    panels = [
        (title, keys)
        for title, keys in (
            ("loss", ("loss", "support_loss", "val_loss")),
            ("accuracy", ("accuracy", "val_accuracy")),
        )
        if any(key in record for record in records for key in keys)
    ]
    if not panels:
        return
    with extra("plots"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    labels = {
        "loss": "training (query)",
        "support_loss": "training (last support)",
        "accuracy": "training (query)",
        "val_loss": "validation",
        "val_accuracy": "validation",
    }
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, keys) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for key in keys:
            points = [(record["iteration"], record[key]) for record in records if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), label=labels[key], marker="." if key.startswith("val") else "")
        axes.set(title=title, xlabel="iteration")
        axes.grid(alpha=0.3)
        axes.legend()
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(folder / "curves.png", picture.getvalue())
