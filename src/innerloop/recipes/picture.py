"""A picture of episodes: the support sets, some queries, and the predictions."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from torch import Tensor

from innerloop.episode import Episode
from innerloop.extras import extra
from innerloop.learner.files import write_atomically

__all__ = ["draw_predictions"]


def draw_predictions(path: Path, episode: Episode, probabilities: Tensor, title: str) -> None:
    """Draw each task as a row: the support images with their classes, then the queries with the predictions.

    Args:
        path: the PNG file.
        episode: ``T`` tasks of images ``[T, N, 1, H, W]``. The first query of each class is drawn.
        probabilities: the predicted probabilities ``[T, Q, ways]``.
        title: the title above the picture.
    """
    with extra("plots"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    first_of_class = [int((episode.query_y[0] == way).nonzero()[0]) for way in episode.query_y[0].unique()]
    shown, asked = episode.support_x.shape[1], len(first_of_class)
    columns = shown + 1 + asked
    figure = Figure(figsize=(0.95 * columns, 1.35 * episode.tasks + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\nleft: the support set, right: queries with the predictions (green: right)", fontsize=10)
    grid = figure.subplots(episode.tasks, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for task, row in enumerate(grid):
        for axes, image, label in zip(row, episode.support_x[task], episode.support_y[task], strict=False):
            axes.imshow(image[0].cpu().numpy(), cmap="gray_r")
            axes.set_title(f"class {int(label)}", fontsize=8)
        for axes, query in zip(row[shown + 1 :], first_of_class, strict=True):
            guess = int(probabilities[task, query].argmax())
            right = guess == int(episode.query_y[task, query])
            axes.imshow(episode.query_x[task, query, 0].cpu().numpy(), cmap="gray_r")
            axes.set_title(
                f"{guess}  ({100 * float(probabilities[task, query, guess]):.0f} %)",
                fontsize=8,
                color="green" if right else "red",
            )
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomically(path, picture.getvalue())
