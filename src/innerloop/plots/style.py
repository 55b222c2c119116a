"""How all pictures look: colours that colour-blind people can tell apart, a grey grid, and labels beside the lines."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from innerloop.extras import extra
from innerloop.learner.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Ending", "as_png", "figure", "headed", "label_ends", "on_axes", "plain", "save", "shade"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5f5f5f")
"""The colours of the series, in order: those of Okabe and Ito without yellow, and a grey."""

INK, FAINT, GRID = "#333333", "#767676", "#e3e3e3"
RIGHT, WRONG = COLOURS[0], COLOURS[1]


def figure(width: float, height: float) -> Figure:
    """A new figure, in inches. It belongs to no window.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    with extra("plots"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def on_axes(ax: Axes | None, width: float = 6.0, height: float = 3.7) -> Axes:
    """The axes that were given, or those of a new figure."""
    return figure(width, height).subplots() if ax is None else ax


def plain(ax: Axes, *, grid: Literal["x", "y", "both"] = "y") -> None:
    """Take everything off the axes that is not needed: a light grid and a base line remain.

    Args:
        ax: the axes.
        grid: the axis that has grid lines: ``x``, ``y`` or ``both``.
    """
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set(color=FAINT, linewidth=0.8)
    ax.grid(axis=grid, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=FAINT, labelcolor=INK, labelsize=8.5, length=0)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set(color=FAINT, fontsize=9)


def headed(ax: Axes, title: str, subtitle: str = "") -> None:
    """Write a title above the axes, at their left, and a smaller line beneath it."""
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=20 if subtitle else 8)
    if subtitle:
        ax.annotate(
            *(subtitle, (0, 1), (0, 6), "axes fraction"),
            textcoords="offset points",
            fontsize=8.5,
            color=FAINT,
            annotation_clip=False,
        )


def shade(colour: str, amount: float) -> tuple[float, float, float]:
    """A colour mixed with white: 1 is the colour itself, 0 is white."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (1 - amount * (1 - channel) for channel in channels)
    return red, green, blue


class Ending(NamedTuple):
    """The end of a line, and its label.

    Attributes:
        x: where the line ends, in the units of the axes.
        y: where the line ends, in the units of the axes.
        text: the label.
        colour: the colour of the label.
    """

    x: float
    y: float
    text: str
    colour: Any


def label_ends(ax: Axes, endings: Sequence[Ending], *, size: float = 8.5) -> None:
    """Label lines at their right ends. Labels that would overlap are moved apart.

    Call this when everything is drawn, since it depends on the limits of the axes.

    Args:
        ax: the axes.
        endings: the ends of the lines.
        size: the size of the text, in points.
    """
    ax.figure.canvas.figure.draw_without_rendering()  # the layout settles here
    points = 72 / ax.figure.dpi
    shown = sorted(endings, key=lambda end: end.y)
    wanted = [float(ax.transData.transform((0, end.y))[1]) * points for end in shown]
    for end, own, there in zip(shown, wanted, spread(wanted, size * 1.25), strict=True):
        ax.annotate(
            *(end.text, (end.x, end.y), (6, there - own)),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=end.colour,
            annotation_clip=False,
        )


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Move ascending positions as little as possible, so that no two are closer than ``apart``.

    Example:
        >>> spread([0.0, 1.0, 9.0], 4.0)
        [-1.5, 2.5, 9.0]
    """
    groups: list[list[float]] = []  # positions that touch each other, which move together
    for position in wanted:
        groups.append([position])
        while len(groups) > 1 and _span(groups[-2], apart)[1] + apart > _span(groups[-1], apart)[0]:
            last = groups.pop()
            groups[-1] += last
    return [_span(group, apart)[0] + apart * index for group in groups for index in range(len(group))]


def _span(group: Sequence[float], apart: float) -> tuple[float, float]:
    """The first and the last position of a group that is spread around its mean."""
    middle, half = sum(group) / len(group), apart * (len(group) - 1) / 2
    return middle - half, middle + half


def save(picture: Axes | Figure, path: str | Path) -> list[Path]:
    """Write a picture as PNG and as SVG. The same picture gives the same bytes with the same version of Matplotlib.

    Args:
        picture: a figure, or axes whose figure is meant.
        path: the file without its ending, or with ``.png`` or ``.svg`` to write only that.

    Returns:
        The files.

    Raises:
        OSError: a file cannot be written.
    """
    path = Path(path)
    endings = [path.suffix] if path.suffix in (".png", ".svg") else [".png", ".svg"]
    base = path.with_suffix("") if path.suffix == endings[0] else path
    written = []
    for ending in endings:
        data = as_png(picture) if ending == ".png" else _as_svg(picture)
        written.append(base.with_name(base.name + ending))
        write_atomically(written[-1], data)
    return written


def as_png(picture: Axes | Figure) -> bytes:
    """A picture as the bytes of a PNG file."""
    data = BytesIO()
    _figure_of(picture).savefig(data, format="png", dpi=150)
    return data.getvalue()


def _as_svg(picture: Axes | Figure) -> bytes:
    import matplotlib as mpl

    data = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "innerloop"}):
        _figure_of(picture).savefig(data, format="svg", metadata={"Date": None})
    return data.getvalue()


def _figure_of(picture: Axes | Figure) -> Any:
    from matplotlib.figure import Figure

    return picture if isinstance(picture, Figure) else picture.figure
