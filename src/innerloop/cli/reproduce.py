"""``innerloop reproduce``."""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from innerloop.cli.arguments import DataArguments, UsageError
from innerloop.recipes import DataSource
from innerloop.recipes.published import PUBLISHED, PublishedCell
from innerloop.recipes.reproduce import Budget, Reproduction, reproduce, standing
from innerloop.recipes.reproduction_report import REPORT_FILE, as_json, as_markdown, check_page, write_report
from innerloop.training.signals import TrainingStopped

__all__ = ["reproduce_papers"]

HELP = """\
usage: innerloop reproduce [DATASET] [--methods M ...] [--cells C ...] [--budget MINUTES] [--out DIR] ...

Train and test the cells of the papers' tables, and compare with the papers.

  innerloop reproduce omniglot --methods maml reptile --cells 5w1s --seeds 0 1 2 --budget 60

DATASET        {datasets}; all if not given
--methods M    {methods}; all if not given
--cells C      {cells}; all if not given
--seeds S      seeds of the trainings; 0 if not given. All cells are done with one seed before the next
--budget MIN   stop cleanly after this many minutes; 0 trains nothing and only reports. No limit if not given
--out DIR      folder of the reproduction; runs/reproduce if not given
--page FILE    a Markdown page whose part between '<!-- innerloop reproduce: begin -->' and '... end -->' becomes the
               table of all published cells
--quiet        show no progress
--json         print all figures as one JSON value on the last line of standard output
--data-dir D, --download, --device cpu|cuda, --threads N
               as for 'innerloop train'

The same command goes on where it was stopped, in the middle of a training too. DIR gets reproduction.json. The table
and the JSON hold every published cell, whatever is chosen to be trained, with the figures of the chosen seeds.
"""


def reproduce_papers(argv: Sequence[str], source_of: Callable[..., DataSource]) -> int:
    """Reproduce cells, write the report, and return 0, or 128 and the signal that stopped it.

    Args:
        argv: the command line.
        source_of: makes the data source from the arguments for data.

    Raises:
        UsageError: the command line has a mistake.
        ConfigError: the page lacks the lines between which the table goes, or a folder holds another run.
        DataError: the data is absent or damaged.
        CheckpointError: a folder holds a damaged run.
        OSError: a file cannot be read or written.
    """
    if {"-h", "--help"} & set(argv):
        print(HELP.format(**{name: ", ".join(known) for name, known in _known().items()}), end="")
        return 0
    given = _parse(argv)
    if given.page is not None:
        check_page(given.page)
    data = DataArguments(given.data_dir, given.download, given.device, given.threads)
    source = source_of(data, progress=False if given.quiet else None)
    chosen = Reproduction(_chosen(given), tuple(given.seeds), given.out, source)
    everything = Reproduction(PUBLISHED, tuple(given.seeds), given.out, source)
    say = (lambda text: None) if given.quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    status = 0
    try:
        done = reproduce(chosen, Budget(given.budget), say, progress=False if given.quiet else None)
    except TrainingStopped as stopped:
        name = signal.Signals(stopped.signal_number).name
        say(f"stopped by {name}; everything is saved in {given.out}, continue with the same command")
        done, status = False, 128 + stopped.signal_number
    write_report(everything, given.page)
    standings = [standing(chosen, cell) for cell in chosen.cells]
    print(as_markdown(standings))
    left = "everything is done" if done else "not all is done: the same command goes on"
    print(f"{left}; all figures: {given.out / REPORT_FILE}")
    if given.json:
        print(json.dumps([as_json(each) for each in standings]))
    return status


def _known() -> dict[str, list[str]]:
    """What each choice may be."""
    return {
        "datasets": list(dict.fromkeys(cell.dataset for cell in PUBLISHED)),
        "methods": list(dict.fromkeys(cell.method for cell in PUBLISHED)),
        "cells": list(dict.fromkeys(cell.setting for cell in PUBLISHED if cell.setting)),
    }


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    known = _known()
    parser = argparse.ArgumentParser(
        prog="innerloop reproduce", add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("dataset", nargs="?", choices=known["datasets"])
    parser.add_argument("--methods", nargs="+", choices=known["methods"], default=known["methods"])
    parser.add_argument("--cells", nargs="+", choices=known["cells"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--data-dir", "--data", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    for name in ("--download", "--quiet", "--json"):
        parser.add_argument(name, action="store_true")
    try:
        given, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; see 'innerloop reproduce --help'") from None
    if unknown:
        raise UsageError(f"there is no option {unknown[0]!r}; see 'innerloop reproduce --help'")
    if given.budget is not None and not (math.isfinite(given.budget) and given.budget >= 0):
        raise UsageError(f"--budget is {given.budget}; it must be a number of minutes of at least 0")
    if min(given.seeds) < 0 or len(set(given.seeds)) < len(given.seeds):
        raise UsageError(f"--seeds is {' '.join(map(str, given.seeds))}; give whole numbers of at least 0 that differ")
    return given


def _chosen(given: argparse.Namespace) -> list[PublishedCell]:
    """The cells that the command line chooses."""
    found = [
        cell
        for cell in PUBLISHED
        if given.dataset in (None, cell.dataset)
        and cell.method in given.methods
        and (given.cells is None or cell.setting in given.cells)
    ]
    if not found:
        raise UsageError("no published cell has this data set, method and setting; see 'innerloop reproduce --help'")
    return found
