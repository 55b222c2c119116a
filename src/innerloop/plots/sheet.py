"""An episode sheet: the support images of some tasks, and queries with the predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from innerloop.episode import Episode
from innerloop.learner.learner import Learner
from innerloop.plots.style import FAINT, INK, RIGHT, WRONG, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["sheet"]

GAP = 0.18
"""The space between two images, in widths of an image."""
TEXT = 0.3
"""The height of a line of text, in heights of an image."""


def sheet(
    learner: Learner, episode: Episode, *, tasks: int = 3, queries: int = 1, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw tasks of images with a learner's predictions.

    Each class has a column: its support images, and beneath them some of its queries. A query has the colour of a right
    or a wrong prediction, the probability of the predicted class, and that class if it is wrong.

    Args:
        learner: the learner, which adapts to each task.
        episode: the tasks, images ``[T, N, C, H, W]`` with one or three channels.
        tasks: the number of tasks to draw.
        queries: the number of queries of each class to draw.
        title: the text above the sheet.
        ax: the axes to draw on. None makes a figure of fitting size.

    Returns:
        The axes.

    Raises:
        ValueError: the inputs are no such images, or the tasks have no queries.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch, innerloop as il
        >>> episode = il.data.glyphs("test").episodes(3, 1, 1, 2)(torch.Generator().manual_seed(0))
        >>> ax = sheet(il.Learner(il.nets.conv4(ways=3, filters=4), il.maml(0.4)), episode)
        >>> len(ax.images)  # two tasks, each with three support images and three queries
        12
    """
    shape = list(episode.support_x.shape)
    if len(shape) != 5 or shape[2] not in (1, 3):
        raise ValueError(f"support_x is {shape}; a sheet needs images, [T, N, C, H, W] with 1 or 3 channels")
    if episode.query_x.shape[1] == 0:
        raise ValueError("the tasks have no queries; draw them with queries=1 or more")
    shown = episode[:tasks].to("cpu")
    blocks = [_Block(learner, shown, task, queries) for task in range(shown.tasks)]
    columns = max(len(block.classes) for block in blocks)
    height = sum(block.height for block in blocks)
    width = columns * (1 + GAP) - GAP
    if ax is None:
        ax = figure(max(3.2, 0.2 + 0.8 * width), 0.6 + 0.8 * height).subplots()
    limits = (
        float(min(shown.support_x.min(), shown.query_x.min())),
        float(max(shown.support_x.max(), shown.query_x.max())),
    )
    top = 0.0
    for block in blocks:
        block.draw(ax, top, limits)
        top -= block.height
    ax.set(xlim=(-0.05, width + 0.05), ylim=(top, 0.05), aspect="equal", anchor="NW")
    ax.axis("off")
    right = sum(block.right for block in blocks)
    of = sum(block.asked for block in blocks)
    ax.set_title(title or "Tasks of new classes", loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=20)
    ax.annotate(
        *(
            f"framed: queries and predictions, {right} of {of} right",
            (0, 1),
            (0, 6),
        ),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8.5,
        color=FAINT,
        annotation_clip=False,
    )
    return ax


class _Block:
    """One task of the sheet."""

    def __init__(self, learner: Learner, episode: Episode, task: int, queries: int) -> None:
        self.classes = episode.support_y[task].unique().tolist()
        x, y = episode.support_x[task], episode.support_y[task]
        self.support = [x[y == label] for label in self.classes]
        query_y = episode.query_y[task]
        rows = [(query_y == label).nonzero()[:queries, 0] for label in self.classes]
        probabilities = learner.adapt(x, y).predict_proba(episode.query_x[task]).cpu()
        self.queries = [[(episode.query_x[task, row], probabilities[row]) for row in own.tolist()] for own in rows]
        self.shots = max(map(len, self.support))
        self.asked = sum(map(len, self.queries))
        self.right = sum(
            int(p.argmax()) == c for c, own in zip(self.classes, self.queries, strict=True) for _, p in own
        )
        most = max(map(len, self.queries))
        self.height = TEXT + self.shots * (1 + GAP / 3) + most * (1 + GAP / 2 + TEXT) + 0.35

    def draw(self, ax: Axes, top: float, limits: tuple[float, float]) -> None:
        for column, label in enumerate(self.classes):
            left, y = column * (1 + GAP), top - TEXT
            ax.text(left + 0.5, y + 0.06, f"class {label}", ha="center", va="bottom", fontsize=7.5, color=FAINT)
            for image in self.support[column]:
                _draw_image(ax, image, (left, y), limits)
                y -= 1 + GAP / 3
            y = top - TEXT - self.shots * (1 + GAP / 3)
            for image, probabilities in self.queries[column]:
                guess = int(probabilities.argmax())
                y -= GAP / 2
                colour = RIGHT if guess == label else WRONG
                _draw_image(ax, image, (left, y), limits, frame=colour)
                said = f"{100 * float(probabilities[guess]):.0f} %"
                text = said if guess == label else f"class {guess}? {said}"
                ax.text(left + 0.5, y - 1.07, text, ha="center", va="top", fontsize=7.5, color=colour)
                y -= 1 + TEXT


def _draw_image(
    ax: Axes, image: Tensor, corner: tuple[float, float], limits: tuple[float, float], *, frame: str = ""
) -> None:
    """Draw an image ``[C, H, W]`` of width 1, from its upper left corner. With one channel, high values are ink."""
    left, top = corner
    low, high = limits
    extent = (left, left + 1, top - 1, top)
    if image.shape[0] == 1:
        ax.imshow(image[0].numpy(), cmap="gray_r", vmin=low, vmax=high, extent=extent)
    else:
        ax.imshow(((image - low) / max(high - low, 1e-12)).permute(1, 2, 0).numpy(), extent=extent)
    colour, width = (frame, 1.8) if frame else ("#cccccc", 0.6)
    xs, ys = [left, left + 1, left + 1, left, left], [top, top, top - 1, top - 1, top]
    ax.plot(xs, ys, color=colour, linewidth=width, solid_joinstyle="miter", clip_on=False)
