"""``data.json`` of a run: what was decided about a user's own data, its splits and its preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from innerloop.data.base import Plan
from innerloop.learner.files import CheckpointError, load_json, write_atomically
from innerloop.learner.schema import ANYTHING, OneOf, Record, check
from innerloop.parts import Part, describe, restore

__all__ = ["DATA_FILE", "read_plan", "write_plan"]

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
    if not isinstance(plan, Part) or not all(hasattr(plan, name) for name in ("open", "lines", "moved")):
        raise CheckpointError(f"{path} is damaged: plan is a {type(plan).__name__}, and must be a plan; {REMEDY}")
    found = cast(Plan, plan)
    return found if root is None else found.moved(root)
