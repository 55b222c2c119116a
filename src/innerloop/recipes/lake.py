"""The one-shot challenge of Lake, Salakhutdinov and Tenenbaum (Science 350, 2015), as a test of runs.

A task is 20 characters of one evaluation alphabet. One drawer's drawings are the support set, and another drawer's are
the queries. The published test is 20 such tasks. Here tasks are drawn anew, from all alphabets with 20 characters.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from innerloop.inner.model import Norm
from innerloop.learner.learner import Learner
from innerloop.recipes.build import DataSource
from innerloop.recipes.config import Config
from innerloop.recipes.options import ConfigError
from innerloop.recipes.run import RunResult, read_run
from innerloop.training.best import best_learners

__all__ = ["evaluate_by_lake"]

WAYS = 20
TASKS = 400


def evaluate_by_lake(
    folder: Path,
    source: DataSource,
    *,
    tasks: int | None = None,
    norm: Norm | None = None,
    seed: int | None = None,
    ensemble: int | None = None,
) -> RunResult:
    """Evaluate a run's learner by the protocol of Lake's one-shot challenge.

    Args:
        folder: the run's folder.
        source: the data.
        tasks: the number of tasks. None means 400.
        norm: the normalisation mode. None means the recipe's.
        seed: the seed of the tasks. None means the run's.
        ensemble: the number of learners whose outputs are averaged, those with the best validations. None uses only
            the run's learner.

    Raises:
        CheckpointError: the folder holds no run, or a damaged one.
        ConfigError: a number is out of range, or the run saw evaluation alphabets in training, or its learner cannot
            tell 20 classes apart.
        DataError: the data is absent or damaged.
    """
    if ensemble is not None and ensemble < 1:
        raise ConfigError(f"--ensemble is {ensemble}; it must be a whole number of at least 1")
    run = read_run(folder)
    _check(run.config, folder)
    source = replace(source, root=source.root or run.data_dir)
    config = run.config.override(dataset="omniglot_alphabets", ways=WAYS, shots=1, test_queries=1)
    config = replace(config, test_tasks=TASKS if tasks is None else tasks)
    method = config.build_method()  # for 20 classes, whatever the training had
    if ensemble is None:
        learner, others = Learner.load(folder, method=method, device=source.device), []
    else:
        learner, *others = best_learners(folder, ensemble, device=source.device, method=method)
    episodes = source.evaluation(config, "test")
    started = time.monotonic()
    evaluation = learner.evaluate(
        episodes,
        tasks=config.test_tasks,
        norm=norm or config.norm,
        seed=config.seed if seed is None else seed,
        others=others,
    )
    return RunResult(replace(run, config=config), evaluation, method.test.steps, "test", time.monotonic() - started)


def _check(config: Config, folder: Path) -> None:
    """Raise ``ConfigError`` unless a run was trained on background alphabets alone and may have 20 classes."""
    if config.dataset != "omniglot_alphabets" and not (
        config.dataset == "omniglot" and config.dataset_settings["scheme"] == "lake"
    ):
        raise ConfigError(
            f"{folder} was trained on {config.dataset}, and --protocol lake needs a training on Omniglot's background "
            "alphabets alone: train omniglot-lake-prototypical, or another recipe with --scheme lake"
        )
    if config.ways != WAYS and config.method != "prototypical":
        raise ConfigError(
            f"{folder} has tasks of {config.ways} classes, and --protocol lake has {WAYS}: train with --ways {WAYS}"
        )
