"""``innerloop sweep``."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from innerloop.cli.arguments import DataArguments, UsageError
from innerloop.cli.train_arguments import TrainArguments, train_arguments
from innerloop.recipes import ConfigError, DataSource, recipe
from innerloop.recipes.sweep import Cell, Sweep, run_sweep, write_results
from innerloop.training.signals import TrainingStopped

__all__ = ["sweep"]

HELP = """\
usage: innerloop sweep RECIPE [--SETTING VALUE,VALUE,...] [--out DIR] [--jobs N] [--split train|val|test] ...

Train and evaluate a recipe for every combination of values, and print a table with intervals over seeds.

Every option of 'innerloop train RECIPE' may be given. Those with several values, separated by commas, make the grid:

  innerloop sweep sinusoid-maml --seed 0,1,2 --inner-lr 0.01,0.02 --iterations 2000

--out DIR     folder of the sweep, with a run for each combination; runs/sweep-RECIPE if not given
--jobs N      number of runs at a time; 1 if not given
--split S     classes to evaluate on: test if not given. To choose a setting, use val
--json        print one JSON object as the last line of standard output

The same command goes on where it was stopped. DIR gets results.csv and results.json.
"""


def sweep(argv: Sequence[str], source_of: Callable[..., DataSource]) -> int:
    """Run a sweep and return 0, 1 if some training diverged, or 128 and the signal that stopped it.

    Args:
        argv: the command line.
        source_of: makes the data source from the arguments for data.

    Raises:
        UsageError: the command line has a mistake.
        ConfigError: settings do not fit, or a folder holds a run with other settings.
        DataError: the data is absent or damaged.
        CheckpointError: a folder holds a damaged run.
    """
    if argv and {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    if not argv or argv[0].startswith("-"):
        raise UsageError("name a recipe: innerloop sweep RECIPE [settings]; 'innerloop recipes' lists them")
    name, *rest = argv
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    try:
        own, rest = parser.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; see 'innerloop sweep --help'") from None
    if own.jobs < 1:
        raise ConfigError(f"--jobs is {own.jobs}; it must be a whole number of at least 1")
    folder = own.out or Path("runs") / f"sweep-{name}"
    cells, arguments = _cells(name, rest, folder)
    quiet = arguments.run.quiet
    data: DataArguments = arguments.data
    source = source_of(data, progress=False if quiet else None)
    plan = Sweep(
        *(name, source, arguments.running, arguments.watching, own.split, own.jobs, data.threads),
        progress=False if quiet else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    say = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    try:
        outcomes = run_sweep(plan, cells, say)
    except TrainingStopped as stopped:
        name = signal.Signals(stopped.signal_number).name
        print(f"stopped by {name}; everything is saved in {folder}, continue with the same command", file=sys.stderr)
        return 128 + stopped.signal_number
    print(write_results(folder, plan, outcomes))
    print(f"\n{own.split} split; each run and its result: {folder}")
    if arguments.run.json:
        print(json.dumps(json.loads((folder / "results.json").read_text())))
    return int(any(outcome.result is None for outcome in outcomes))


def _cells(name: str, words: Sequence[str], folder: Path) -> tuple[list[Cell], TrainArguments]:
    """The cells of the grid, all checked before any is trained, and the arguments that they share."""
    base = recipe(name)
    axes, shared = _axes(words)
    cells = []
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        flags = [word for axis, value in settings.items() for word in (f"--{axis}", value)]
        arguments = train_arguments(name, base, [*shared, *flags])
        named = {axis.rpartition(".")[2].replace("-", "_"): value for axis, value in settings.items()}
        cells.append(Cell(named, arguments.config, folder / _folder_name(settings)))
    if arguments.run.out is not None or arguments.run.resume:
        raise UsageError("a sweep resumes by itself; leave out --resume")
    return cells, arguments


def _axes(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The options with several values, and all other words."""
    axes: dict[str, list[str]] = {}
    shared: list[str] = []
    rest = [part for word in words for part in (word.split("=", 1) if re.match(r"--[\w.-]+=", word) else [word])]
    for word in rest:
        flag = shared[-1] if shared else ""
        if "," in word and flag.startswith("--") and flag != "--data-dir":
            name, values = shared.pop().removeprefix("--"), word.split(",")
            if "" in values or len(set(values)) < len(values) or name in axes:
                raise UsageError(f"{flag} is {word}; give each option once, with values that differ, such as 0.1,0.4")
            axes[name] = values
        else:
            shared.append(word)
    return axes, shared


def _folder_name(settings: dict[str, str]) -> str:
    """A name such as ``inner-lr=0.1,seed=0``. If values have characters that a folder should not, a hash is added."""
    name = ",".join(f"{axis}={value}" for axis, value in settings.items()) or "only"
    plain = re.sub(r"[^\w.,=+-]", "_", name)[:150]
    return plain if plain == name else f"{plain}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
