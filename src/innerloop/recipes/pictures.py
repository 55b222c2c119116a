"""The pictures of runs: what ``innerloop plot`` draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from innerloop import plots
from innerloop.episode import Episode
from innerloop.inner.model import Norm
from innerloop.learner.learner import Learner
from innerloop.randomness import Stream, generator_at
from innerloop.recipes.build import DataSource
from innerloop.recipes.options import ConfigError
from innerloop.recipes.run import Run, RunResult, data_of, evaluate_run, read_run

__all__ = ["PICTURES", "draw_run", "draw_runs"]

PICTURES = Literal["curves", "steps", "fits", "episodes", "scores"]
"""The pictures by name."""

Figures = dict[str, Any]
"""Figures of Matplotlib by the names of their files, without endings."""

TASKS = 3
"""The number of tasks in a picture of tasks."""


def draw_run(
    folder: Path,
    source: DataSource,
    what: Sequence[PICTURES] = (),
    *,
    tasks: int | None = None,
    norm: Norm | None = None,
    seed: int | None = None,
) -> Figures:
    """The pictures of one run: training curves, scores against inner steps, and fits or an episode sheet.

    Args:
        folder: the run's folder.
        source: the data.
        what: the pictures to draw. If there are none, all that its kind of tasks allows.
        tasks: the number of tasks to evaluate on. None means the recipe's.
        norm: the normalisation mode. None means the recipe's.
        seed: the seed of the tasks. None means the run's.

    Raises:
        CheckpointError: the folder holds no run, or a damaged one.
        ConfigError: a picture was asked for that this run cannot have.
        DataError: the data is absent or damaged.
        MissingExtraError: Matplotlib is not installed.
    """
    run = read_run(folder)
    name = folder.resolve().name
    drawn: Figures = {}
    if _wanted("curves", what) and (figure := plots.all_curves(folder, name)) is not None:
        drawn["curves"] = figure
    if {"steps", "scores"} & set(what) or not what:
        result = evaluate_run(folder, source, tasks=tasks, norm=norm, seed=seed)
        if _wanted("steps", what):
            drawn["steps"] = plots.steps({name: result.evaluation}, note=", ".join(_protocol(result))).figure
        if "scores" in what:
            drawn["scores"] = plots.scores({name: result.evaluation}, note=", ".join(_protocol(result))).figure
    if {"fits", "episodes"} & set(what) or not what:
        drawn |= _of_tasks(run, source, what, seed)
    return drawn


def draw_runs(
    folders: Sequence[Path],
    source: DataSource,
    what: Sequence[PICTURES] = (),
    *,
    tasks: int | None = None,
    norm: Norm | None = None,
    seed: int | None = None,
) -> Figures:
    """The pictures that compare runs: validation curves, scores against inner steps, and scores after the last one.

    Args:
        folders: the folders of the runs.
        source: as for :func:`draw_run`.
        what: as for :func:`draw_run`.
        tasks: as for :func:`draw_run`.
        norm: as for :func:`draw_run`.
        seed: as for :func:`draw_run`.

    Raises:
        CheckpointError: as for :func:`draw_run`.
        ConfigError: the runs cannot be compared, or a picture was asked for that shows one run only.
        DataError: as for :func:`draw_run`.
        MissingExtraError: as for :func:`draw_run`.
    """
    if alone := {"fits", "episodes"} & set(what):
        raise ConfigError(f"--what {' '.join(sorted(alone))} shows the tasks of one run; give one run, or leave it out")
    if len({read_run(folder).config.regression for folder in folders}) > 1:
        raise ConfigError("some of the runs are regressions and others are not; compare runs of one kind")
    names = _names(folders)
    drawn: Figures = {}
    if _wanted("curves", what):
        try:
            drawn["curves"] = plots.curves(dict(zip(names, folders, strict=True))).figure
        except ValueError as error:
            raise ConfigError(str(error)) from error
    if {"steps", "scores"} & set(what) or not what:
        results = [evaluate_run(folder, source, tasks=tasks, norm=norm, seed=seed) for folder in folders]
        note, own = _shared_and_own([_protocol(result) for result in results])
        names = [f"{name} ({', '.join(each)})" if each else name for name, each in zip(names, own, strict=True)]
        evaluations = {name: result.evaluation for name, result in zip(names, results, strict=True)}
        if _wanted("steps", what):
            drawn["steps"] = plots.steps(evaluations, note=note).figure
        if _wanted("scores", what):
            drawn["scores"] = plots.scores(evaluations, note=note).figure
    return drawn


def _of_tasks(run: Run, source: DataSource, what: Sequence[PICTURES], seed: int | None) -> Figures:
    """Fits or an episode sheet, as the tasks are. If one was asked for that the tasks do not allow, raise."""
    generator = generator_at(run.config.seed if seed is None else seed, Stream.TESTING, device=source.device)
    episode = data_of(run, source).evaluation(run.config, "test")(generator)
    learner = Learner.load(run.folder, device=source.device)
    drawn: Figures = {}
    if "fits" in what or (not what and _has_curves(episode)):
        with _asked_for("fits", run):
            drawn["fits"] = plots.all_fits(learner, episode[:TASKS])
    if "episodes" in what or (not what and _has_images(episode)):
        with _asked_for("episodes", run):
            drawn["episodes"] = plots.sheet(learner, episode, tasks=TASKS, title=run.recipe).figure
    return drawn


def _has_curves(episode: Episode) -> bool:
    return episode.support_x.shape[2:] == episode.support_y.shape[2:] == (1,)


def _has_images(episode: Episode) -> bool:
    shape = episode.support_x.shape
    return len(shape) == 5 and shape[2] in (1, 3)


@contextmanager
def _asked_for(picture: str, run: Run) -> Iterator[None]:
    """A context in which a picture is drawn that the tasks may not allow."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"--what {picture} does not fit {run.folder}: {error}") from error


def _wanted(picture: PICTURES, what: Sequence[PICTURES]) -> bool:
    return not what or picture in what


def _names(folders: Sequence[Path]) -> list[str]:
    """The names of the folders. Where two are the same, the whole paths."""
    counts = Counter(folder.resolve().name for folder in folders)
    return [name if counts[name := folder.resolve().name] == 1 else str(folder) for folder in folders]


def _protocol(result: RunResult) -> tuple[str, ...]:
    config, evaluation = result.run.config, result.evaluation
    ways = "" if config.regression else f" {config.ways}-way"
    return f"{config.dataset}{ways} {config.shots}-shot", f"{len(evaluation.loss)} test tasks", evaluation.norm


def _shared_and_own(protocols: Sequence[tuple[str, ...]]) -> tuple[str, list[list[str]]]:
    """What all protocols have in common, and for each what differs, so that no picture compares unlike tests unsaid."""
    alike = [len(set(part)) == 1 for part in zip(*protocols, strict=True)]
    shared = ", ".join(text for text, same in zip(protocols[0], alike, strict=True) if same)
    return shared, [[text for text, same in zip(each, alike, strict=True) if not same] for each in protocols]
