"""The quickstart: train and evaluate MAML and Reptile in a few minutes, and draw a picture."""

from __future__ import annotations

import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerloop import plots
from innerloop.data import DataError, find_omniglot
from innerloop.learner.learner import Learner
from innerloop.randomness import Stream, generator_at
from innerloop.recipes.build import DataSource
from innerloop.recipes.config import Config
from innerloop.recipes.options import ConfigError
from innerloop.recipes.registry import recipe
from innerloop.recipes.run import CONFIG_FILE, RunResult, evaluate_run, train_run

__all__ = ["quickstart_configs", "run_quickstart"]

_log = logging.getLogger(__name__)
MARKER = "quickstart.txt"


def quickstart_configs(dataset: str) -> dict[str, Config]:
    """MAML and Reptile with short schedules for two CPU cores, by the names of the recipes that they shorten."""
    maml: dict[str, Any] = {
        "iterations": 300,
        "tasks": 16,
        "queries": 5,
        "outer_lr": 3e-3,
        "outer_schedule": "cosine",
        "adapt": "*",
        "head_std": None,
    }
    reptile: dict[str, Any] = {"iterations": 400, "test_steps": 10}
    shared: dict[str, Any] = {"val_every": 100, "val_tasks": 40, "test_tasks": 200}
    return {
        f"{dataset}-5w1s-{method}": recipe(f"{dataset}-5w1s-{method}").override(**short, **shared)
        for method, short in (("maml", maml), ("reptile", reptile))
    }


def run_quickstart(folder: Path, data_dir: Path | None = None) -> None:
    """Train and evaluate both methods, print a table, and write a picture of a few episodes.

    Args:
        folder: the folder for the two runs and the picture. An earlier quickstart there is replaced.
        data_dir: the folder of Omniglot. None means the default places.

    Raises:
        ConfigError: the folder holds something else.
    """
    _empty(folder)
    dataset, source = _choose_data(data_dir)
    results: list[tuple[str, RunResult]] = []
    for name, config in quickstart_configs(dataset).items():
        _say(f"\n{name}: {config.iterations} iterations (the full recipe: {recipe(name).iterations})")
        train_run(name, config, folder / name, source)
        results += [
            (config.method, evaluate_run(folder / name, source, norm=norm)) for norm in ("transductive", "inductive")
        ]
    print(f"\n{_table(results)}")  # noqa: T201
    picture = folder / "predictions.png"
    _draw(picture, results, source)
    print(f"\npicture of a few episodes with the predictions: {picture}")  # noqa: T201


def _choose_data(data_dir: Path | None) -> tuple[str, DataSource]:
    """Omniglot if it is found or can be downloaded, otherwise glyphs."""
    source = DataSource(data_dir)
    if found := find_omniglot(data_dir):
        _say(f"Omniglot found in {found}")
        return "omniglot", source
    _say("Omniglot is not on this machine; trying to download it (14 MB)")
    source = replace(source, download=True)
    try:
        source.evaluation(recipe("omniglot-5w1s-maml"), "test")
    except (DataError, OSError) as error:
        _log.info("Omniglot: %s", error)
        _say("It cannot be downloaded here. Using GLYPHS, generated characters: the accuracies are not on Omniglot.")
        return "glyphs", DataSource()
    return "omniglot", source


def _table(results: list[tuple[str, RunResult]]) -> str:
    """A table of the evaluations."""
    head = ("method", "dataset", "norm", "before adapting", "after adapting (95 % interval)", "tasks")
    rows = [head]
    for method, result in results:
        evaluation = result.evaluation
        after = f"{100 * evaluation.mean:.1f} % ± {100 * evaluation.ci95:.1f}"
        before = f"{100 * evaluation.per_step[0]:.1f} %"
        dataset = f"{result.run.config.dataset} {result.run.config.ways}-way {result.run.config.shots}-shot"
        rows.append((method, dataset, evaluation.norm, before, after, str(len(evaluation.loss))))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _draw(path: Path, results: list[tuple[str, RunResult]], source: DataSource) -> None:
    """Draw three episodes with the predictions of the first method."""
    run = results[0][1].run
    episode = source.evaluation(run.config, "test")(generator_at(1, Stream.TESTING))[:3]
    learner = Learner.load(run.folder)
    title = f"{run.recipe}: 5-way 1-shot tasks of new characters"
    plots.save(plots.sheet(learner, episode, title=title), path)


def _empty(folder: Path) -> None:
    """Make the folder, or remove the runs of an earlier quickstart from it. Nothing else is removed."""
    if folder.exists():
        if not folder.is_dir():
            raise ConfigError(f"{folder} is a file; choose another --out")
        if any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise ConfigError(f"{folder} was not made by an earlier quickstart and is not empty; choose another --out")
        for run in folder.glob(f"*/{CONFIG_FILE}"):
            shutil.rmtree(run.parent)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by 'innerloop quickstart', which replaces its runs when it is run again.\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
