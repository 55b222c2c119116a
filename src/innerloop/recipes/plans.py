"""Where the data of a run is, and ``data.json``: what was decided about a user's own data."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

from innerloop.data.base import DATASETS, Plan
from innerloop.data.errors import DataError
from innerloop.data.published import shared_place
from innerloop.learner.files import CheckpointError, load_json, write_atomically
from innerloop.learner.schema import ANYTHING, OneOf, Record, check
from innerloop.parts import Part, describe, restore
from innerloop.recipes.build import DataSource

__all__ = ["DATA_FILE", "read_plan", "source_of_run", "write_plan"]

DATA_FILE = "data.json"
FORMAT = "innerloop-data-1"
REMEDY = "restore it or train again"


def write_plan(plan: Plan, folder: Path) -> None:
    """Write the plan of a run."""
    text = json.dumps({"format": FORMAT, "plan": describe(plan)}, indent=2) + "\n"
    write_atomically(folder / DATA_FILE, text.encode(errors="surrogateescape"))


def read_plan(folder: Path, root: Path | None = None) -> Plan:
    """Read the plan of a run.

    Args:
        folder: the run's folder.
        root: where the data is now. None means where it was.

    Raises:
        CheckpointError: there is no plan, or it is damaged.
    """
    path = folder / DATA_FILE
    description = load_json(path)
    check(description, Record({"format": OneOf((FORMAT,)), "plan": ANYTHING}), path, REMEDY)
    try:
        plan = restore(description["plan"])
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; {REMEDY}") from error
    if not isinstance(plan, Part) or not all(hasattr(plan, name) for name in ("open", "lines", "moved", "place")):
        raise CheckpointError(f"{path} is damaged: plan is a {type(plan).__name__}, and must be a plan; {REMEDY}")
    found = cast(Plan, plan)
    return found if root is None else found.moved(root)


def source_of_run(source: DataSource, folder: Path, dataset: str, recorded: Path | None) -> DataSource:
    """The source with the data that a run was trained with, unless another place is given.

    Another place is ``--data-dir``, or for the data sets of the papers ``INNERLOOP_DATA``.

    Args:
        source: the source as the command line gives it.
        folder: the run's folder.
        dataset: the name of its data set.
        recorded: the ``--data-dir`` that the run was trained with, if there was one.

    Raises:
        CheckpointError: the run has a plan of its data that is absent or damaged.
        DataError: the data is no longer where it was, and no other place is given.
    """
    if DATASETS[dataset].planned:
        given = source.root or shared_place(dataset)
        plan = read_plan(folder, given)
        if given is None:
            _check_there(plan.place, folder)
        return replace(source, plan=plan)
    if source.root is None and recorded is not None and not os.environ.get("INNERLOOP_DATA") and not source.download:
        _check_there(recorded, folder)
        return replace(source, root=recorded)
    return source


def _check_there(place: Path, folder: Path) -> None:
    if not place.exists():
        raise DataError(
            f"{place} does not exist: {folder} was trained with the data there. Say where it is now with --data-dir."
        )
