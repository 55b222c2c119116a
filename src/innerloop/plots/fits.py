"""A regression task before and after each inner step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from innerloop.episode import Episode
from innerloop.learner.learner import Learner
from innerloop.plots.style import COLOURS, FAINT, INK, Ending, figure, headed, label_ends, on_axes, plain, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["all_fits", "fits"]

POINTS = 200
TITLE = "Fit before and after each inner step"
GREY = "#d0d0d0"


def fits(learner: Learner, episode: Episode, *, task: int = 0, title: str = TITLE, ax: Axes | None = None) -> Axes:
    """Draw what a learner predicts for a regression task before adapting and after each inner step.

    Args:
        learner: the learner.
        episode: tasks with one input and one output, such as sinusoids. The queries show the true function.
        task: the task of the episode.
        title: the text above the picture.
        ax: the axes to draw on. None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: the tasks have another number of inputs or outputs.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch, innerloop as il
        >>> learner = il.Learner(il.nets.mlp(), il.maml(0.01, inner_steps=2), loss_fn=torch.nn.functional.mse_loss)
        >>> episode = il.data.sinusoids().episodes(queries=50)(torch.Generator().manual_seed(0))
        >>> [text.get_text() for text in fits(learner, episode).texts if "step" in text.get_text()]
        ['1 step', '2 steps']
    """
    for name in ("support_x", "support_y"):
        if (shape := getattr(episode, name).shape)[2:] != (1,):
            raise ValueError(f"{name} is {list(shape)}; a picture of a fit needs one input and one output, [T, S, 1]")
    chosen = episode[task : task + 1]
    x, y = chosen.support_x[0], chosen.support_y[0]
    everywhere = torch.cat([x, chosen.query_x[0]])
    grid = torch.linspace(float(everywhere.min()), float(everywhere.max()), POINTS, device=x.device)[:, None]
    outputs = learner.trace(x, y, grid.to(x)).outputs.cpu()
    at, last = grid[:, 0].cpu().tolist(), len(outputs) - 1
    ax = on_axes(ax)
    order = chosen.query_x[0, :, 0].argsort()
    true_x, true_y = (t[0, order, 0].cpu().tolist() for t in (chosen.query_x, chosen.query_y))
    ax.plot(true_x, true_y, color=GREY, linewidth=6, solid_capstyle="round", zorder=1)
    endings = [Ending(at[-1], true_y[-1], "true", FAINT)] if true_y else []
    for step, curve in enumerate(outputs[:, :, 0].tolist()):
        colour = COLOURS[1] if step == 0 else shade(COLOURS[0], 0.25 + 0.75 * step / last)
        ax.plot(
            at,
            curve,
            color=colour,
            linewidth=2.2 if step == last else 1.2,
            linestyle="--" if step == 0 else "-",
            zorder=2,
        )
        if step in (0, 1, last):
            text = "before" if step == 0 else f"{step} step{'s' * (step > 1)}"
            endings.append(Ending(at[-1], curve[-1], text, colour if step != 1 else COLOURS[0]))
    ax.plot(x[:, 0].cpu().tolist(), y[:, 0].cpu().tolist(), "o", color=INK, markersize=4.5, zorder=3)
    plain(ax)
    ax.set(xlabel="x", xlim=(at[0], at[-1]))
    if title:
        headed(ax, title, f"dots: the {len(x)} support points")
    label_ends(ax, endings)
    return ax


def all_fits(learner: Learner, episode: Episode) -> Figure:
    """A figure with the fits of all tasks of an episode, side by side.

    Args:
        learner: the learner.
        episode: as for :func:`fits`.

    Raises:
        ValueError: as for :func:`fits`.
        MissingExtraError: as for :func:`fits`.
    """
    made = figure(4.2 * episode.tasks, 3.4)
    for task, ax in enumerate(made.subplots(1, episode.tasks, squeeze=False)[0]):
        fits(learner, episode, task=task, title="" if task else TITLE, ax=ax)
    return made
