"""``innerloop adapt`` for learners that were trained on a table: rows to learn from, and rows to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from innerloop.cli.arguments import AdaptArguments, UsageError
from innerloop.data._table_file import TABLES, read_table
from innerloop.data.table import TablePlan
from innerloop.data.table_preprocess import TablePreprocessing, is_missing, number_of, text_of
from innerloop.display import first_few
from innerloop.learner.learner import Learner
from innerloop.learner.predictor import Predictor
from innerloop.recipes.plans import DATA_FILE, read_plan

__all__ = ["Table", "predicted", "summary"]


@dataclass(frozen=True)
class Table:
    """What is known of the tables of a learner.

    Args:
        target: the column to predict.
        task: the column that says which task a row belongs to; empty if there is none.
        classes: the classes, if they mean the same in every task.
        regression: whether numbers are predicted.
    """

    target: str
    task: str
    classes: tuple[str, ...]
    regression: bool


def predicted(learner: Learner, arguments: AdaptArguments) -> list[dict[str, Any]]:
    """Adapt to the rows of one table, and predict the target of the rows of another.

    If the tables have the column of tasks, the learner adapts to the rows of each task by themselves.

    Args:
        learner: a learner with a preprocessing of tables.
        arguments: the tables, and how they are read.

    Returns:
        An entry for each query row: ``row`` (from 1), ``task`` if there are tasks, ``prediction``, for classification
        ``probability``, and ``truth`` if the table has the target.

    Raises:
        UsageError: a file or a column is absent, or the learner cannot be adapted to the rows.
        DataError: a file is no table, or a row cannot be read.
        CheckpointError: the run's description of its data is damaged.
    """
    table = _described(learner, arguments)
    support, query = _read(arguments.support, "--support"), _read(arguments.query, "--query")
    if table.target not in support:
        raise UsageError(
            f"{arguments.support} has no column {table.target!r}, which is to be predicted; it has "
            f"{first_few(list(support))}"
        )
    tasks = table.task in support if table.task else False
    if tasks and table.task not in query:
        raise UsageError(f"{arguments.query} has no column {table.task!r}, which says the task of each row")
    groups = _groups(support, table.task if tasks else "", table.target)
    wanted = _groups(query, table.task if tasks else "", "")
    if absent := [name for name in wanted if name not in groups]:
        raise UsageError(
            f"{arguments.support} has no rows of the tasks {first_few(absent)}, which {arguments.query} asks for"
        )
    found: list[dict[str, Any]] = []
    for name, rows in wanted.items():
        try:
            predictor = _adapted(learner, table, support, groups[name], arguments.steps)
            answers = _answers(predictor, table, _rows(query, rows))
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            of_task = f"task {name}: " if tasks else ""
            raise UsageError(f"{of_task}{error}") from error
        truths = [_truth(query[table.target][row], table) if table.target in query else None for row in rows]
        found += [
            {"row": row + 1, **({"task": name} if tasks else {}), **answer, "truth": truth}
            for row, answer, truth in zip(rows, answers, truths, strict=True)
        ]
    return sorted(found, key=lambda entry: int(entry["row"]))


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """How good the predictions are, if the query table has the target. Otherwise empty."""
    known = [entry for entry in found if entry["truth"] is not None]
    if not known:
        return ""
    if "probability" in known[0]:
        right = sum(entry["prediction"] == entry["truth"] for entry in known)
        return f"right: {right} of the {len(known)} rows with a known target"
    error = math.sqrt(sum((entry["prediction"] - entry["truth"]) ** 2 for entry in known) / len(known))
    return f"root mean squared error: {error:.4g}, over the {len(known)} rows with a known target"


def _described(learner: Learner, arguments: AdaptArguments) -> Table:
    """The columns, from the run's own description, or as the command line says."""
    assert isinstance(learner.preprocessing, TablePreprocessing)
    regression = learner.preprocessing.target is not None
    plan = read_plan(arguments.run) if (arguments.run / DATA_FILE).exists() else None
    if isinstance(plan, TablePlan):
        return Table(arguments.target or plan.target, arguments.task or plan.task, plan.classes, regression)
    if arguments.target is None:
        raise UsageError(f"{arguments.run} does not say which column is predicted; name it with --target COLUMN")
    return Table(arguments.target, arguments.task or "", (), regression)


def _read(path: Path, flag: str) -> dict[str, list[Any]]:
    if path.is_dir():
        raise UsageError(f"{flag} is {path}, a folder; this learner was trained on a table ({', '.join(TABLES)})")
    return read_table(path)


def _groups(table: Mapping[str, Sequence[Any]], task: str, target: str) -> dict[str, list[int]]:
    """The rows of each task. Rows without a task or a target are left out, as in training."""
    count = len(next(iter(table.values())))
    groups: dict[str, list[int]] = {}
    for row in range(count):
        if (task and is_missing(table[task][row])) or (target and is_missing(table[target][row])):
            continue
        groups.setdefault(text_of(table[task][row]) if task else "", []).append(row)
    if not groups:
        raise UsageError(f"no row has a value in {' and '.join(filter(None, [task, target]))}")
    return groups


def _rows(table: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [column[row] for row in rows] for name, column in table.items()}


def _adapted(
    learner: Learner, table: Table, support: Mapping[str, Sequence[Any]], rows: Sequence[int], steps: int | None
) -> Predictor:
    chosen = _rows(support, rows)
    targets = chosen[table.target]
    if table.regression:
        return learner.adapt(chosen, np.array([number_of(value, table.target) for value in targets]), steps=steps)
    labels = [text_of(value) for value in targets]
    if not table.classes:
        return learner.adapt(chosen, labels, steps=steps)
    # The classes of training keep their numbers, also where some of them are absent.
    if unknown := sorted(set(labels) - set(table.classes)):
        raise UsageError(f"column {table.target!r} holds {first_few(unknown)}: training had {', '.join(table.classes)}")
    indices = torch.tensor([table.classes.index(label) for label in labels])
    return learner.adapt(chosen, indices, steps=steps)


def _answers(predictor: Predictor, table: Table, queries: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if table.regression:
        return [{"prediction": float(value)} for value in np.asarray(predictor.predict(queries)).reshape(-1)]
    assert predictor.labels is not None
    names = [table.classes[int(label)] if table.classes else str(label) for label in predictor.labels]
    found = []
    for p in predictor.predict_proba(queries).tolist():
        best = max(range(len(p)), key=p.__getitem__)
        found.append({"prediction": names[best], "probability": p[best]})
    return found


def _truth(value: Any, table: Table) -> str | float | None:
    if is_missing(value):
        return None
    return number_of(value, table.target) if table.regression else text_of(value)
