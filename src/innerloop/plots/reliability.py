"""A reliability diagram: how far confidence can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from innerloop.evaluation.calibration import Calibration
from innerloop.plots.style import COLOURS, FAINT, headed, on_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["reliability"]


def reliability(calibration: Calibration, *, title: str = "Calibration", ax: Axes | None = None) -> Axes:
    """Draw the accuracy of predictions by their confidence. The closer the dots are to the diagonal, the better.

    Args:
        calibration: the calibration from :func:`innerloop.evaluate`.
        title: the title above the picture.
        ax: the axes to draw on. None makes a figure.

    Returns:
        The axes.

    Raises:
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch, innerloop as il
        >>> outputs, targets = torch.tensor([[[4.0, 0.0], [0.0, 1.0]]]), torch.tensor([[0, 0]])
        >>> reliability(il.Calibration.of(outputs, targets)).get_xlabel()
        'confidence'
    """
    ax = on_axes(ax, 4.2, 4.2)
    used = calibration.counts > 0
    confidence, accuracy = calibration.confidence[used], calibration.accuracy[used]
    share = calibration.counts[used] / calibration.predictions
    ax.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, zorder=1)
    ax.vlines(confidence.tolist(), confidence.tolist(), accuracy.tolist(), color=COLOURS[1], linewidth=1.2, zorder=2)
    areas = (12 + 240 * torch.as_tensor(share)).tolist()
    ax.scatter(confidence.tolist(), accuracy.tolist(), areas, color=COLOURS[0], linewidths=0, zorder=3)
    plain(ax, grid="both")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    error = f"expected calibration error {100 * calibration.ece:.2f} %"
    headed(ax, title, f"{error}; area: share of predictions")
    return ax
