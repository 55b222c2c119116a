"""The command ``innerloop``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from innerloop import plots
from innerloop.cli.arguments import (
    DataArguments,
    EvaluateArguments,
    PlotArguments,
    QuickstartArguments,
    UsageError,
    parse,
)
from innerloop.cli.train_arguments import TrainArguments, given, train_arguments
from innerloop.data import DataError
from innerloop.engine.runtime import runtime
from innerloop.export.errors import ExportError
from innerloop.extras import MissingExtraError, need
from innerloop.learner.files import CheckpointError, write_atomically
from innerloop.recipes import (
    Config,
    ConfigError,
    DataSource,
    RunResult,
    evaluate_run,
    read_run,
    recipe,
    train_run,
)
from innerloop.recipes.figures import recipe_lines
from innerloop.recipes.own import fitted_config, own_config, own_name
from innerloop.recipes.run import CONFIG_FILE, EVALUATION_FILE, data_of
from innerloop.training.checkpoint import CHECKPOINT_FILE
from innerloop.training.trainer import DivergedError, TrainingStopped

__all__ = ["main"]

USAGE = """\
usage: innerloop COMMAND ...

  innerloop train RECIPE [--data-dir D] [--iterations N] [--device cpu|cuda] [--seed S] [--out RUN] [--resume] ...
                              meta-train with a recipe; 'innerloop train RECIPE --help' lists every setting
  innerloop train --data DIR [--method M] [--ways N] [--shots K] ...
                              meta-train on your own data: a folder of images by class, or a table
  innerloop evaluate RUN [--tasks N] [--norm transductive|inductive|per_step] [--ensemble N] [--json] ...
                              evaluate a run on new tasks, by the protocol of its recipe
  innerloop export RUN FILE.onnx [--support DIR] [--steps K] [--every-step] ...
                              write adaptation itself, or an adapted predictor, to a file that needs no Python
  innerloop adapt RUN --support DIR --query DIR [--csv FILE] [--json-file FILE] ...
                              learn from a few images of each class, and label other images; or from rows of a table
  innerloop inspect RUN       print what a run is: method, network, data, accuracy, files
  innerloop sweep RECIPE [--seed 0,1,2] [--inner-lr 0.1,0.4] [--jobs N] [--split train|val|test] [--out DIR] ...
                              train a grid of settings, and print a table with intervals over seeds
  innerloop reproduce [omniglot|sinusoid] [--methods M ...] [--cells 5w1s ...] [--budget MINUTES] [--page FILE] ...
                              train and test the cells of the papers' tables, and compare with the papers
  innerloop plot RUN... [--out DIR] [--what curves|steps|fits|episodes|scores ...] [--tasks N] [--tensorboard] ...
                              draw pictures of a run, or of how several compare, as PNG and SVG
  innerloop recipes           list the recipes
  innerloop cache list|clear  what the cache folder holds, and removing what is no longer of use
  innerloop quickstart        train and evaluate MAML and Reptile within minutes
  innerloop demo [RUN] [--port P] [--open] [--static DIR] ...
                              serve a page to draw on: a few examples, a few gradient steps, and it knows them
  innerloop bench [--rows N ...] [--what maml|fomaml|reptile] [--sweep steps] [--throughput] [--plot FILE] [--json] ...
                              compare time and memory with other libraries, after checking that all agree
  innerloop --version
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 for a failed run, 2 for bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"innerloop {_version()}")
        return 0
    try:
        if arguments[0] not in COMMANDS:
            raise UsageError(f"there is no command {arguments[0]!r}; the commands are {', '.join(COMMANDS)}")
        if argv is None:  # the process belongs to the command line
            runtime.keep_memory()
        return COMMANDS[arguments[0]](arguments[1:])
    except (UsageError, ConfigError, DataError, CheckpointError, MissingExtraError, ExportError) as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(_reason(error), 2)
    except DivergedError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def train(argv: Sequence[str]) -> int:
    """``innerloop train``."""
    name, arguments, source = _what_to_train(argv)
    folder = arguments.run.out or Path("runs") / name
    say = None if arguments.run.quiet else print
    if say is not None and source.plan is not None:
        print("\n".join(source.plan.lines()))
    if say is not None and any(len(numbers) > 1 for numbers in arguments.config.drawn.values()):
        print(_tasks_in_words(arguments.config))
    try:
        run = train_run(
            name,
            arguments.config,
            folder,
            source,
            running=arguments.running,
            watching=arguments.watching,
            resume=arguments.run.resume,
            progress=False if arguments.run.quiet else None,
            say=say if source.plan is not None or arguments.config.network else None,
        )
    except TrainingStopped as stopped:
        print(f"{stopped}; everything is saved in {folder}, continue with --resume", file=sys.stderr)
        return 128 + stopped.signal_number
    except OSError as error:
        left = "; what was saved before is whole: continue with --resume" if (folder / CHECKPOINT_FILE).exists() else ""
        return _fail(_reason(error) + left, 2)
    if not arguments.run.quiet:
        print(f"trained {run.recipe} for {run.trained} iterations: {folder}")
        print(f"next: innerloop evaluate {folder}")
    if arguments.run.json:
        print(json.dumps({"run": str(folder), "recipe": name, "iterations": run.trained}))
    return 0


def _tasks_in_words(config: Config) -> str:
    """The numbers that meta-training draws from, and those of validation and test."""
    drawn = "; ".join(f"{name} {_numbers_in_words(numbers)}" for name, numbers in config.drawn.items())
    ways = "" if config.regression else f"{config.ways} ways, "
    return (
        f"tasks of meta-training: {drawn}; validation and test: {ways}{config.shots} shots, {config.test_queries} "
        "queries"
    )


def _numbers_in_words(numbers: Sequence[int]) -> str:
    whole = len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    return f"{numbers[0]} to {numbers[-1]}" if whole else " or ".join(map(str, numbers))


def _what_to_train(argv: Sequence[str]) -> tuple[str, TrainArguments, DataSource]:
    """The name of the run, its arguments and its data: by a recipe, or by the data itself."""
    if argv and not argv[0].startswith("-"):
        name, argv = argv[0], argv[1:]
        arguments = train_arguments(name, recipe(name), argv)
        source = _source(arguments.data, progress=False if arguments.run.quiet else None)
        folder = arguments.run.out or Path("runs") / name
        if arguments.run.resume and (folder / CONFIG_FILE).exists():
            source = data_of(read_run(folder), source)
        return name, arguments, source.planned(arguments.config)
    data = given("data", argv) or given("data_dir", argv)
    if data is None:
        if argv and argv[0] in ("-h", "--help"):
            train_arguments("RECIPE", Config.of(), argv)
        raise UsageError(
            "name a recipe, innerloop train RECIPE ('innerloop recipes' lists them), or your data: innerloop train "
            "--data DIR"
        )
    method = given("method", argv) or "maml"
    name = own_name(Path(data), method)
    # The options of the data decide on its plan, and the plan on the defaults of the other options.
    first = train_arguments(
        "--data", own_config(Path(data), method, target=given("target", argv), dataset=given("dataset", argv)), argv
    )
    source = _source(first.data, progress=False if first.run.quiet else None).planned(first.config)
    assert source.plan is not None
    return name, train_arguments("--data", fitted_config(first.config, source.plan), argv), source


def evaluate(argv: Sequence[str]) -> int:
    """``innerloop evaluate``."""
    arguments = parse(EvaluateArguments, "evaluate", argv)
    if arguments.tasks is not None and arguments.tasks < 1:
        raise ConfigError(f"--tasks is {arguments.tasks}; it must be a whole number of at least 1")
    if arguments.seed is not None and arguments.seed < 0:
        raise ConfigError(f"--seed is {arguments.seed}; it must be a whole number of at least 0")
    if arguments.calibration is not None:
        need("plots")
        if not arguments.calibration.absolute().parent.is_dir():
            raise UsageError(f"--calibration is {arguments.calibration}, whose folder does not exist; create it")
        if read_run(arguments.run).config.regression:
            raise UsageError("--calibration needs class probabilities, and this run is a regression; leave it out")
    source, chosen = _source(arguments.data), {name: getattr(arguments, name) for name in ("tasks", "norm", "seed")}
    if arguments.protocol == "lake":
        result = _by_lake(arguments, source, chosen)
    else:
        result = evaluate_run(
            arguments.run,
            source,
            **chosen,
            split=arguments.split,
            last_step=arguments.last_step,
            ensemble=arguments.ensemble,
        )
    with contextlib.suppress(OSError):  # a run that cannot be written to can be evaluated all the same
        write_atomically(arguments.run / EVALUATION_FILE, (json.dumps(result.as_json(), indent=2) + "\n").encode())
    print("\n".join(_described(result)))
    if arguments.calibration is not None and result.evaluation.calibration is not None:
        plots.save(plots.reliability(result.evaluation.calibration, title=result.run.recipe), arguments.calibration)
    if arguments.json:
        print(json.dumps(result.as_json()))
    return 0


def _by_lake(arguments: EvaluateArguments, source: DataSource, chosen: dict[str, Any]) -> RunResult:
    """The evaluation by the protocol of Lake's one-shot challenge."""
    if arguments.split != "test" or arguments.last_step:
        option = "--last-step" if arguments.last_step else f"--split {arguments.split}"
        raise UsageError(f"{option} does not fit --protocol lake, which tests every step on the evaluation alphabets")
    if arguments.norm == "per_step":
        raise UsageError("--norm per_step does not fit --protocol lake; choose transductive or inductive")
    from innerloop.recipes.lake import evaluate_by_lake

    return evaluate_by_lake(arguments.run, source, **chosen, ensemble=arguments.ensemble)


def recipes(argv: Sequence[str]) -> int:
    """``innerloop recipes``."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: innerloop recipes\n\nlist the recipes")
        return 0
    if argv:
        raise UsageError(f"innerloop recipes takes no arguments; {argv[0]!r} was given")
    print("\n".join(recipe_lines()))
    return 0


def quickstart(argv: Sequence[str]) -> int:
    """``innerloop quickstart``."""
    from innerloop.recipes.quickstart import run_quickstart

    arguments = parse(QuickstartArguments, "quickstart", argv)
    need("plots")
    run_quickstart(arguments.out, arguments.data_dir)
    return 0


def bench(argv: Sequence[str]) -> int:
    """``innerloop bench``."""
    from innerloop.cli.bench import bench

    return bench(argv)


def demo(argv: Sequence[str]) -> int:
    """``innerloop demo``."""
    from innerloop.cli.demo import demo

    return demo(argv)


def export(argv: Sequence[str]) -> int:
    """``innerloop export``."""
    from innerloop.cli.export import export

    return export(argv)


def adapt(argv: Sequence[str]) -> int:
    """``innerloop adapt``."""
    from innerloop.cli.adapt import adapt

    return adapt(argv)


def inspect(argv: Sequence[str]) -> int:
    """``innerloop inspect``."""
    from innerloop.cli.inspect import inspect

    return inspect(argv)


def plot(argv: Sequence[str]) -> int:
    """``innerloop plot``."""
    from innerloop.cli.plot import plot

    arguments = parse(PlotArguments, "plot", argv)
    return plot(arguments, _source(arguments.data))


def sweep(argv: Sequence[str]) -> int:
    """``innerloop sweep``."""
    from innerloop.cli.sweep import sweep

    return sweep(argv, _source)


def cache(argv: Sequence[str]) -> int:
    """``innerloop cache``."""
    from innerloop.cli.cache import cache

    return cache(argv)


def reproduce(argv: Sequence[str]) -> int:
    """``innerloop reproduce``."""
    from innerloop.cli.reproduce import reproduce_papers

    return reproduce_papers(argv, _source)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "adapt": adapt,
    "inspect": inspect,
    "recipes": recipes,
    "cache": cache,
    "quickstart": quickstart,
    "demo": demo,
    "bench": bench,
    "plot": plot,
    "sweep": sweep,
    "reproduce": reproduce,
}


def _source(arguments: DataArguments, *, progress: bool | None = None) -> DataSource:
    """Check the device, the threads and the folder, and return the data source."""
    try:
        kind = torch.device(arguments.device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"--device is {arguments.device!r}; choose cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda, but PyTorch finds no CUDA device here; use --device cpu")
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ConfigError(f"--threads is {arguments.threads}; it must be a whole number of at least 1")
        torch.set_num_threads(arguments.threads)
    if arguments.data_dir is not None and not arguments.data_dir.exists() and not arguments.download:
        raise ConfigError(f"--data-dir is {arguments.data_dir}, which does not exist; create it, or add --download")
    return DataSource(arguments.data_dir, arguments.device, arguments.download, progress)


def _described(result: RunResult) -> list[str]:
    """The lines that report an evaluation."""
    run, evaluation = result.run, result.evaluation
    steps = result.steps
    task = "" if run.config.regression else f" {run.config.ways}-way"
    protocol = f"{run.config.dataset}{task} {run.config.shots}-shot, {result.split} split"
    lines = [f"{run.recipe}: {protocol}, {len(evaluation.loss)} tasks, {steps} inner steps, {evaluation.norm}"]
    if evaluation.members > 1:
        lines.append(f"ensemble of {evaluation.members} checkpoints of the run, outputs averaged")
    if evaluation.accuracy is None:
        lines.append(f"loss {evaluation.mean:.4f} ± {evaluation.ci95:.4f}")
        if result.unit is not None:
            error = result.unit * evaluation.mean**0.5
            lines.append(f"the loss is of scaled targets: a root mean squared error of {error:.4g} in their own units")
        per_step = [f"{value:.3f}" for value in evaluation.per_step]
    else:
        lines.append(f"accuracy {100 * evaluation.mean:.2f} % ± {100 * evaluation.ci95:.2f} (95 % interval)")
        per_step = [f"{100 * value:.1f}" for value in evaluation.per_step]
    if len(per_step) > 1:
        lines.append(f"after 0..{steps} steps: {' '.join(per_step)}")
    if (calibration := evaluation.calibration) is not None:
        scores = f"negative log-likelihood {calibration.nll:.4f}, Brier score {calibration.brier:.4f}"
        lines.append(f"calibration: expected error {100 * calibration.ece:.2f} %, {scores}")
    return lines


def _reason(error: OSError) -> str:
    """What the operating system says, and of which file."""
    return f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")


def _fail(message: str, status: int) -> int:
    print(f"innerloop: {' '.join(message.split())}", file=sys.stderr)
    return status


def _version() -> str:
    try:
        return version("innerloop")
    except PackageNotFoundError:
        return "(not installed)"
