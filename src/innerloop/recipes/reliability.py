"""A picture of a run's calibration: accuracy by confidence."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch

from innerloop.evaluation.calibration import Calibration
from innerloop.extras import extra
from innerloop.learner.files import write_atomically

__all__ = ["draw_reliability"]


def draw_reliability(calibration: Calibration, path: Path, title: str = "") -> None:
    """Draw a reliability diagram: the accuracy in each bin of confidence, and the share of predictions in the bin.

    Args:
        calibration: the calibration from :func:`innerloop.evaluate`.
        path: the PNG file. Its folder must exist.
        title: the title above the picture.
    """
    with extra("plots"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    bins = len(calibration.counts)
    edges = torch.linspace(0, 1, bins + 1)[:-1].tolist()
    accuracy = calibration.accuracy.nan_to_num().tolist()
    # In a well calibrated network the bar of a bin would end at the mean confidence.
    gap = (calibration.confidence - calibration.accuracy).nan_to_num().tolist()
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(edges, accuracy, 1 / bins, align="edge", edgecolor="black", linewidth=0.5, label="accuracy")
    upper.bar(
        *(edges, gap, 1 / bins, accuracy),
        **{"align": "edge", "color": "none", "edgecolor": "tab:red", "hatch": "//", "linewidth": 0.5},
        label="gap to the confidence",
    )
    upper.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
    error = f"expected calibration error {100 * calibration.ece:.2f} %"
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"{title}\n{error}".strip())
    upper.legend(loc="upper left")
    shares = (calibration.counts / calibration.predictions).tolist()
    lower.bar(edges, shares, 1 / bins, align="edge", edgecolor="black", linewidth=0.5, color="tab:gray")
    lower.set(xlabel="confidence", ylabel="share")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())
