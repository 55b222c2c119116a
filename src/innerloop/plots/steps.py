"""Scores against inner steps, and the comparison of runs after the last one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from innerloop.evaluation.evaluate import Evaluation
from innerloop.plots.style import COLOURS, INK, Ending, headed, label_ends, on_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["scores", "steps"]

Results = Evaluation | Mapping[str, Evaluation]
SHADED = "shaded: 95 % interval over tasks"
LINES = "lines: 95 % intervals over tasks"


def steps(results: Results, *, note: str = "", ax: Axes | None = None) -> Axes:
    """Draw the score after each inner step: the mean over tasks, with its 95 % interval.

    Args:
        results: an evaluation with ``every_step``, or several by the names to show.
        note: how they were evaluated, for the line beneath the title.
        ax: the axes to draw on. None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: there are no results, or some are accuracies and others are losses.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch, innerloop as il
        >>> tasks = il.data.sinusoids().episodes(tasks=4)
        >>> learner = il.Learner(il.nets.mlp(), il.maml(0.01, inner_steps=3), loss_fn=torch.nn.functional.mse_loss)
        >>> steps(learner.evaluate(tasks, tasks=4)).get_xlabel()
        'inner steps'
    """
    named, metric, scale = _checked(results)
    ax = on_axes(ax)
    endings = []
    for index, (name, result) in enumerate(named.items()):
        colour = COLOURS[index % len(COLOURS)]
        means = [scale * value for value in result.per_step]
        halves = [scale * value for value in result.ci95_per_step]
        at = list(range(len(means)))
        low, high = zip(*((mean - half, mean + half) for mean, half in zip(means, halves, strict=True)), strict=True)
        ax.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(at, means, color=colour, linewidth=1.8, marker="o", markersize=4)
        endings.append(Ending(at[-1], means[-1], f"{name}  {_short(means[-1], metric)}".strip(), colour))
    plain(ax)
    ax.set(xlabel="inner steps")
    ax.locator_params(axis="x", integer=True)
    _percent(ax, metric, "y")
    headed(ax, f"{metric.capitalize()} after each inner step", f"{note}; {SHADED}" if note else SHADED)
    label_ends(ax, endings)
    return ax


def scores(results: Results, *, note: str = "", ax: Axes | None = None) -> Axes:
    """Compare the scores after the last inner step: a dot for each mean over tasks, a line for its 95 % interval.

    Args:
        results: an evaluation, or several by the names to show.
        note: how they were evaluated, for the line beneath the title.
        ax: the axes to draw on. None makes a figure.

    Returns:
        The axes.

    Raises:
        ValueError: there are no results, or some are accuracies and others are losses.
        MissingExtraError: Matplotlib is not installed.

    Example:
        >>> import torch, innerloop as il
        >>> tasks = il.data.sinusoids().episodes(tasks=4)
        >>> learner = il.Learner(il.nets.mlp(), il.maml(0.01), loss_fn=torch.nn.functional.mse_loss)
        >>> ax = scores({"MAML": learner.evaluate(tasks, tasks=4)})
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['MAML']
    """
    named, metric, scale = _checked(results)
    ax = on_axes(ax, height=1.3 + 0.34 * len(named))
    places = range(len(named) - 1, -1, -1)  # the first is at the top
    for index, (place, result) in enumerate(zip(places, named.values(), strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        mean, half = scale * result.mean, scale * result.ci95
        ax.plot([mean - half, mean + half], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot([mean], [place], "o", color=colour, markersize=6)
        ax.annotate(
            *(f"{_short(mean, metric)} ± {_number(half)}", (mean, place), (0, 6)),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=INK,
        )
    plain(ax, grid="x")
    ax.set_yticks(list(places), list(named))
    ax.set(ylim=(-0.6, len(named) - 0.3))
    ax.margins(x=0.12)
    _percent(ax, metric, "x")
    headed(ax, f"{metric.capitalize()} on new tasks", f"{note}; {LINES}" if note else LINES)
    return ax


def _checked(results: Results) -> tuple[dict[str, Evaluation], str, float]:
    """The results by name, their metric, and the factor to show it with."""
    named = {"": results} if isinstance(results, Evaluation) else dict(results)
    metrics = {result.metric for result in named.values()}
    if len(metrics) != 1:
        raise ValueError(
            f"there are {len(named)} results, of {' and '.join(sorted(metrics)) or 'nothing'}; give results of one kind"
        )
    metric = metrics.pop()
    return named, metric, 100 if metric == "accuracy" else 1


def _percent(ax: Axes, metric: str, axis: str) -> None:
    if metric == "accuracy":
        {"x": ax.xaxis, "y": ax.yaxis}[axis].set_major_formatter(lambda value, _: f"{value:g} %")


def _short(value: float, metric: str) -> str:
    return _number(value) + (" %" if metric == "accuracy" else "")


def _number(value: float) -> str:
    """A number with about three digits."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
