"""Training runs and their folders: what ``innerloop train`` and ``innerloop evaluate`` do.

A run folder holds ``config.json`` (the configuration), ``data.json`` (what was decided about a user's own data),
``metrics.jsonl`` and TensorBoard events,
``checkpoint.safetensors`` (to resume from), ``learner.json`` and ``learner.safetensors`` (to deploy), ``curves.png``,
and in ``best/ITERATION`` the learners of the best validations (for an ensemble).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from innerloop import plots
from innerloop.data import DATASETS
from innerloop.evaluation.calibration import Calibration
from innerloop.evaluation.evaluate import Evaluation
from innerloop.extras import MissingExtraError
from innerloop.inner.model import Norm
from innerloop.learner.files import CheckpointError, load_json, write_atomically
from innerloop.learner.learner import Learner
from innerloop.learner.schema import (
    ANYTHING,
    FLAG,
    TEXT,
    Kind,
    ListOf,
    Maybe,
    Number,
    OneOf,
    Record,
    Table,
    check,
    of_type,
)
from innerloop.methods.base import METHODS
from innerloop.nets.own import is_own, trust
from innerloop.recipes.build import DataSource, Running, check_net, make_net, make_trainer, net_spec
from innerloop.recipes.config import NESTED, Config, all_options, common_options
from innerloop.recipes.earlier import from_flat
from innerloop.recipes.options import ConfigError
from innerloop.recipes.plans import DATA_FILE, source_of_run, write_plan
from innerloop.recipes.varied import VARIED
from innerloop.recipes.watching import Watching
from innerloop.training.best import best_folders, best_learners
from innerloop.training.callbacks import Callback
from innerloop.training.events import add_pictures
from innerloop.training.folder import RunFolder, is_left_over

__all__ = ["Run", "RunResult", "data_of", "evaluate_run", "read_run", "train_run"]

CONFIG_FILE, EVALUATION_FILE = "config.json", "evaluation.json"
FORMAT, FLAT_FORMAT = "innerloop-run-2", "innerloop-run-1"

DESCRIPTION = Record(
    {
        "format": OneOf((FORMAT, FLAT_FORMAT)),
        "recipe": TEXT,
        "torch": TEXT,
        "config": Table(ANYTHING),  # its fields depend on the data set and the method
    },
    optional={"data_dir": Maybe(TEXT)},  # older runs do not have it
)
"""The contents of ``config.json``."""


@dataclass(frozen=True)
class Run:
    """A training run, as its folder describes it."""

    folder: Path
    recipe: str
    config: Config
    data_dir: Path | None = None
    """The folder of its data, if one was given."""
    trained: int | None = None
    """The iterations that were done, if the run was just trained. Early stopping ends it before the last one."""


@dataclass(frozen=True)
class RunResult:
    """An evaluation of a run's learner, with its protocol."""

    run: Run
    evaluation: Evaluation
    steps: int
    split: str
    seconds: float
    unit: float | None = None
    """What targets were divided by in training; None if they were not scaled."""

    def as_json(self) -> dict[str, Any]:
        """The result as one JSON object. Accuracies are fractions."""
        config, result = self.run.config, self.evaluation
        return {
            "run": str(self.run.folder),
            "recipe": self.run.recipe,
            "method": config.method,
            "ensemble": result.members if result.members > 1 else None,
            result.metric: result.mean,
            "ci95": result.ci95,
            "tasks": len(result.loss),
            "ways": None if config.regression else config.ways,
            "shots": config.shots,
            "queries": config.test_queries,
            "inner_steps": self.steps,
            "norm": result.norm,
            "dataset": config.dataset,
            "split": self.split,
            "target_unit": self.unit,
            f"{result.metric}_per_step": result.per_step,
            "calibration": None if result.calibration is None else _calibration_json(result.calibration),
            "seconds": round(self.seconds, 1),
        }


def train_run(
    recipe: str,
    config: Config,
    folder: Path,
    source: DataSource,
    *,
    running: Running = Running(),  # noqa: B008 - frozen
    watching: Watching = Watching(),  # noqa: B008 - frozen
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Train with a configuration, into a folder.

    Args:
        recipe: the name of the recipe that the configuration comes from.
        config: the configuration.
        folder: the run's folder.
        source: the data.
        running: how tasks are run.
        watching: early stopping and loggers.
        resume: continue the run in the folder, if there is one.
        callbacks: what is called during training.
        progress: whether to show a progress bar. None shows it only on a terminal.
        say: prints a line that says which network is trained. None prints nothing.

    Raises:
        ConfigError: the folder holds a run and ``resume`` is not set, or it holds another run.
        MissingExtraError: a logger's package is not installed.
        DataError: the data is absent or damaged.
        CheckpointError: the run in the folder is damaged, or another training uses the folder.
        DivergedError: the loss became infinite or NaN.
        OSError: a file cannot be written. Everything saved before is intact.
        TrainingStopped: a signal asked to stop. Everything is saved.
    """
    _check_folder(folder, config, resume=resume)
    told = [*watching.callbacks(config), *callbacks]
    if (folder / DATA_FILE).exists():  # the splits and preprocessing that the run began with
        source = source_of_run(source, folder, config.dataset, None)
    source = source.planned(config)
    training, validation = source.training(config), source.validation(config)
    # The network is made on the CPU, so that a seed gives the same initial weights on every device.
    torch.manual_seed(config.seed)
    shape = None if source.plan is None else source.plan.preprocessing.shape
    spec = net_spec(config, shape)
    net = make_net(spec)
    if shape is not None:
        check_net(net, shape, 1 if config.regression else config.outputs)
    if is_own(spec["name"]):
        trust(spec["name"])
    if say is not None:
        say(described_net(spec, net))
    net = net.to(source.device)
    trainer = make_trainer(config, net, running)
    with RunFolder(folder):
        _check_folder(folder, config, resume=resume)  # again, because now no other training can change it
        data_dir = None if source.root is None else str(source.root.expanduser().absolute())
        description: dict[str, Any] = {
            "format": FORMAT,
            "recipe": recipe,
            "torch": torch.__version__,
            "data_dir": data_dir,
        }
        description["config"] = config.as_json()
        if source.plan is not None:
            write_plan(source.plan, folder)
        write_atomically(folder / CONFIG_FILE, (json.dumps(description, indent=2) + "\n").encode())
        try:
            trainer.fit(
                training,
                config.iterations,
                validation=validation,
                callbacks=told,
                folder=folder,
                resume=resume,
                save_every=config.val_every,
                log_every=max(1, min(50, config.val_every)),
                progress=progress,
                net_spec=spec,
                preprocessing=getattr(getattr(training, "source", None), "preprocessing", None),
                about={"recipe": recipe},
            )
            if config.statistics_tasks:
                _add_statistics(folder, config, source)
        except BaseException:
            with contextlib.suppress(OSError, CheckpointError, MissingExtraError):  # must not hide the error
                _draw_curves(folder)
            raise
        with contextlib.suppress(MissingExtraError):  # the numbers are in metrics.jsonl all the same
            _draw_curves(folder)
    return Run(folder, recipe, config, source.root, trainer.iteration)


def _draw_curves(folder: Path) -> None:
    """Draw the curves into ``curves.png`` and for TensorBoard. Without records, nothing is drawn."""
    if (figure := plots.all_curves(folder)) is not None:
        picture = plots.as_png(figure)
        write_atomically(folder / "curves.png", picture)
        add_pictures(folder, {"curves": picture})


def _check_folder(folder: Path, config: Config, *, resume: bool) -> None:
    """Raise ``ConfigError`` unless one may train into this folder."""
    if (folder / CONFIG_FILE).exists():
        if not resume:
            raise ConfigError(f"{folder} already holds a run; add --resume to continue it, or choose another --out")
        _check_same(read_run(folder).config, config, folder)
    elif folder.exists() and (not folder.is_dir() or not all(map(is_left_over, folder.iterdir()))):
        raise ConfigError(f"{folder} is not a run's folder and not empty; choose another --out")


def described_net(spec: Mapping[str, Any], net: nn.Module) -> str:
    """A line on a network: its name, its arguments and the number of its parameters."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in spec["arguments"].items())
    return f"network: {spec['name']}({arguments}), {sum(p.numel() for p in net.parameters()):,} parameters"


def _add_statistics(folder: Path, config: Config, source: DataSource) -> None:
    """Give the learners of a run the batch-norm statistics of the mode ``per_step``, from tasks of meta-training."""
    episodes = source.evaluation(config, "train")
    for path in (folder, *best_folders(folder)):
        learner = Learner.load(path, device=source.device)
        learner.with_statistics(episodes, tasks=config.statistics_tasks, seed=config.seed).save(path)


def read_run(folder: Path) -> Run:
    """Read the description of a run from its folder.

    Raises:
        CheckpointError: there is no such folder, no run in it, or its description is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        what = "there is no folder" if not folder.is_dir() else f"there is no run ({CONFIG_FILE}) in"
        raise CheckpointError(f"{what} {folder}; give the folder that 'innerloop train' wrote (its --out)")
    description = load_json(path)
    remedy = "restore it or train again"
    check(description, DESCRIPTION, path, remedy)
    # Older runs have no choice of a network, and nothing that varies.
    settings = {"network": None, **{name: [] for name in VARIED}, **description["config"]}
    flat = description["format"] == FLAT_FORMAT
    known: dict[str, Kind] = {
        "dataset": OneOf(tuple(DATASETS)),
        "method": OneOf(tuple(METHODS)),
        "network": Maybe(TEXT),
    }
    # A setting of a flat configuration is a plain value.
    others = Maybe(TEXT, FLAG, Number(), ListOf(ANYTHING)) if flat else ANYTHING
    check({"config": settings}, Record({"config": Record(known, others=others)}), path, remedy)
    if not flat:
        try:
            kind = Record({"config": _settings(settings["dataset"], settings["method"], settings["network"])})
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
        check({"config": settings}, kind, path, remedy)
    try:
        config = from_flat(settings) if flat else Config.from_json(settings)
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {remedy}") from error
    data_dir = description.get("data_dir")
    return Run(folder, description["recipe"], config, None if data_dir is None else Path(data_dir))


def data_of(run: Run, source: DataSource) -> DataSource:
    """The source with the data of a run, where the run was trained or where the source says, and with its plan.

    Raises:
        CheckpointError: the plan is absent or damaged.
        DataError: the data is no longer where it was, and the source names no other place.
    """
    return source_of_run(source, run.folder, run.config.dataset, run.data_dir)


def _settings(dataset: str, method: str, network: str | None) -> Record:
    """The fields of a run's configuration, and their types. Ranges are checked elsewhere."""
    nested = zip(NESTED, all_options(dataset, method, network), strict=True)
    return Record(
        {
            **{name: of_type(option.type) for name, option in common_options().items()},
            **{part: Record({n: of_type(o.type) for n, o in options.items()}) for part, options in nested},
        }
    )


def evaluate_run(
    folder: Path,
    source: DataSource,
    *,
    tasks: int | None = None,
    norm: Norm | None = None,
    split: Literal["train", "val", "test"] = "test",
    seed: int | None = None,
    last_step: bool = False,
    ensemble: int | None = None,
) -> RunResult:
    """Evaluate a run's learner by the protocol of its recipe.

    Args:
        folder: the run's folder.
        source: the data.
        tasks: the number of tasks. None means the recipe's.
        norm: the normalisation mode. None means the recipe's.
        split: the split of the classes that tasks are drawn from.
        seed: the seed of the tasks. None means the run's.
        last_step: whether to score only after the last inner step, which is faster.
        ensemble: the number of learners whose outputs are averaged, as in the published code of MAML++. They are those
            with the best validations. None uses only the run's learner.

    Raises:
        CheckpointError: the folder holds no run, or a damaged one.
        ConfigError: the number of tasks or of learners is below 1, or the run lacks the statistics of ``per_step``.
        DataError: the data is absent or damaged, or has no such split.
    """
    if ensemble is not None and ensemble < 1:
        raise ConfigError(f"--ensemble is {ensemble}; it must be a whole number of at least 1")
    run = read_run(folder)
    source = data_of(run, source)
    config = replace(run.config, test_tasks=run.config.test_tasks if tasks is None else tasks)
    if ensemble is None:
        learner, others = Learner.load(folder, device=source.device), []
    else:
        learner, *others = best_learners(folder, ensemble, device=source.device)
    if norm == "per_step" and any(each.statistics is None for each in (learner, *others)):
        raise ConfigError(
            f"--norm is per_step, and {folder} has no batch-norm statistics for each step: add them with 'innerloop "
            f"train {run.recipe} --out {folder} --resume --statistics-tasks 100' and the run's other settings"
        )
    episodes = source.evaluation(config, split)
    started = time.monotonic()
    evaluation = learner.evaluate(
        episodes,
        tasks=config.test_tasks,
        norm=norm or config.norm,
        seed=config.seed if seed is None else seed,
        every_step=not last_step,
        others=others,
    )
    scale = None if source.plan is None else source.plan.preprocessing.target
    unit = None if scale is None else scale.std
    return RunResult(run, evaluation, learner.method.test.steps, split, time.monotonic() - started, unit)


def _calibration_json(calibration: Calibration) -> dict[str, Any]:
    bins = len(calibration.counts)
    return {
        "ece": calibration.ece,
        "nll": calibration.nll,
        "brier": calibration.brier,
        "bins": [
            {"up_to": (b + 1) / bins, "predictions": int(count), "confidence": confidence, "accuracy": accuracy}
            for b, (count, confidence, accuracy) in enumerate(
                zip(
                    calibration.counts.tolist(),
                    calibration.confidence.tolist(),
                    calibration.accuracy.tolist(),
                    strict=True,
                )
            )
            if count
        ],
    }


def _check_same(before: Config, now: Config, folder: Path) -> None:
    old, new = before.flat(), now.flat()
    del old["statistics_tasks"]  # these are gathered after training
    if before.outer_schedule == "constant":
        del old["iterations"]  # a run with a constant rate can be extended
    changed = [f"--{n.replace('_', '-')} {value} (now {new.get(n)})" for n, value in old.items() if value != new.get(n)]
    if changed:
        raise ConfigError(f"{folder} holds a run with {', '.join(changed)}; resume with the same settings")
