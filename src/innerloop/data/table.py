"""A table with a column of tasks, a column to predict and columns of features: :func:`from_table`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from innerloop.data._checks import check_fields
from innerloop.data._table_file import read_table
from innerloop.data.arrays import members_of
from innerloop.data.base import Kind, Location, Split, registered_data
from innerloop.data.classes import LabelledClasses, TensorInputs, split_names
from innerloop.data.errors import DataError
from innerloop.data.grouped import GroupedTasks
from innerloop.data.preprocess import Scale
from innerloop.data.table_preprocess import CategoryColumn, NumberColumn, TablePreprocessing, is_missing, text_of
from innerloop.parts import Part

__all__ = ["TablePlan", "from_table", "plan_kind", "plan_table"]

_MOST_CATEGORIES = 100
_MOST_CLASSES = 20
_TASK_NAMES, _TARGET_NAMES = ("task", "task_id"), ("target", "label", "class", "y")


@dataclass(frozen=True, repr=False)
class TablePlan(Part):
    """What was decided about a table: its columns, its splits, and how rows are prepared.

    Args:
        path: the file.
        kind: ``classification`` or ``regression``.
        task: the column that says which task a row belongs to. Empty if there is none: the classes are then those that
            tasks are made of.
        target: the column to predict.
        train: the names of the training tasks; without a task column, of the training classes.
        val: those for validation.
        test: those for test.
        preprocessing: how rows are prepared. Means, scales and categories are those of the training rows.
        classes: the classes, if they mean the same in every task.
        left_out: the columns that are not used, and why.
    """

    path: str
    kind: Kind
    task: str
    target: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    preprocessing: TablePreprocessing
    classes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def place(self) -> Path:
        """Where the data is."""
        return Path(self.path)

    @property
    def held_out(self) -> bool:
        """Whether there is something for validation."""
        return bool(self.val)

    @property
    def exact(self) -> bool:
        """Whether tasks have all classes."""
        return bool(self.classes)

    @property
    def smallest(self) -> int:
        """The most classes that a task can have in every split."""
        return len(self.classes) or min(len(names) for names in (self.train, self.val, self.test) if names)

    def moved(self, root: Path) -> TablePlan:
        """The same plan for a file at another place."""
        return replace(self, path=str(root.expanduser().absolute()))

    def lines(self) -> list[str]:
        """What was decided, in words."""
        what = f"tasks by column {self.task!r}" if self.task else f"classes of column {self.target!r}"
        numbers = [column.name for column in self.preprocessing.columns if isinstance(column, NumberColumn)]
        categories = [column.name for column in self.preprocessing.columns if isinstance(column, CategoryColumn)]
        target = f"{self.kind} of column {self.target!r}"
        if self.classes:
            target += f", classes {', '.join(self.classes)}"
        lines = [
            f"data: {self.path}, {len(self.train)} training, {len(self.val)} validation and {len(self.test)} test "
            f"{what}",
            f"target: {target}",
            f"features: numbers {', '.join(numbers) or 'none'}; categories {', '.join(categories) or 'none'}",
            "missing values: a number becomes the mean of the training rows, a category none of the categories, and a "
            "further feature says so if training rows had it; rows without a target or task are left out",
        ]
        return lines + ([f"not used: {', '.join(self.left_out)}"] if self.left_out else [])

    def open(self, split: Split, place: Location) -> LabelledClasses | GroupedTasks:
        """Open a split.

        Raises:
            DataError: there is no such split, or the table has changed so that it does not fit.
        """
        names: tuple[str, ...] = getattr(self, split)
        if not names:
            raise DataError(f"there is no split {split!r} of {self.path}. Train again with a share for it.")
        table = read_table(Path(self.path))
        for column in (self.target, *filter(None, [self.task])):
            if column not in table:
                raise DataError(f"{self.path} has no column {column!r}; it has {', '.join(table)}.")
        groups = [None if is_missing(value) else text_of(value) for value in table[self.task or self.target]]
        wanted = set(names)
        rows = [
            row
            for row, (group, target) in enumerate(zip(groups, table[self.target], strict=True))
            if group in wanted and not is_missing(target)
        ]
        if absent := sorted(wanted - {group for row in rows if (group := groups[row])}):
            raise DataError(f"{self.path} has no rows of {len(absent)} of the {split} tasks or classes: {absent[0]!r}.")
        chosen = {name: [column[row] for row in rows] for name, column in table.items()}
        inputs = TensorInputs(self.preprocessing(chosen), self.preprocessing)
        group_names, members = members_of([groups[row] for row in rows])
        options = "--small-classes skip, or .at_least() in Python"
        if not self.task:
            return LabelledClasses(inputs, group_names, members, options)
        if self.kind == "regression":
            assert self.preprocessing.target is not None
            targets = self.preprocessing.target(_numbers(chosen[self.target], self.target))
            return GroupedTasks(inputs, targets, group_names, members, options=options)
        number = {name: i for i, name in enumerate(self.classes)}
        labels = [text_of(value) for value in chosen[self.target]]
        if unknown := sorted(set(labels) - number.keys()):
            raise DataError(f"column {self.target!r} holds {unknown[0]!r}, which is none of {', '.join(self.classes)}.")
        return GroupedTasks(
            inputs, torch.tensor([number[label] for label in labels]), group_names, members, self.classes, options
        )


def plan_table(
    path: str | Path,
    *,
    task: str | None = None,
    target: str | None = None,
    features: Sequence[str] = (),
    kind: Kind | None = None,
    split_seed: int = 0,
    val_share: float = 0.2,
    test_share: float = 0.2,
) -> TablePlan:
    """Look at a table, and decide on its columns, its splits and on how rows are prepared.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        task: the column that says which task a row belongs to. None takes a column named ``task`` or ``task_id``.
            Without one, a classification task is made of some of the classes.
        target: the column to predict. None takes a column named ``target``, ``label``, ``class`` or ``y``, or else the
            last one.
        features: the columns of features. Empty takes all others, except texts with more than 100 different values.
        kind: ``classification`` or ``regression``. None decides: numbers with more than 20 different values, or with
            decimals, are for regression.
        split_seed: the seed of the split.
        val_share: the share of the tasks or classes that are for validation.
        test_share: the share that is for test.

    Raises:
        DataError: the file is no table, a column is absent or cannot be used, or the tasks cannot be split so.
    """
    file = Path(path).expanduser().absolute()
    table = read_table(file)
    names = list(table)
    task = task or next((name for name in names if name.lower() in _TASK_NAMES), "")
    target = target or next((name for name in names if name.lower() in _TARGET_NAMES and name != task), names[-1])
    for name in (*filter(None, [task]), target, *features):
        if name not in table:
            raise DataError(f"{file} has no column {name!r}; it has {', '.join(names)}.")
    if target == task or {target, task} & set(features):
        raise DataError(f"the task column {task!r}, the target {target!r} and the features must be different columns.")
    values = [value for value in table[target] if not is_missing(value)]
    if not values:
        raise DataError(f"column {target!r}, the target, has no values.")
    kind = kind or _kind_of(values)
    if kind == "regression" and not task:
        raise DataError(f"{file}: regression needs a column that says which task a row belongs to (--task COLUMN).")
    groups = [
        None if is_missing(value) or is_missing(y) else text_of(value)
        for value, y in zip(table[task or target], table[target], strict=True)
    ]
    parts = split_names(sorted({name for name in groups if name}), val=val_share, test=test_share, seed=split_seed)
    training = [row for row, name in enumerate(groups) if name in set(parts[0])]
    columns, left_out = [], []
    for name in features or [name for name in names if name not in (task, target)]:
        column = _column(name, table[name], training)
        if isinstance(column, str):
            if features:
                raise DataError(f"column {name!r} cannot be a feature: {column}.")
            left_out.append(f"{name} ({column})")
        else:
            columns.append(column)
    if not columns:
        raise DataError(f"{file} has no column that can be a feature ({', '.join(left_out) or 'none is left'}).")
    scale = None
    if kind == "regression":
        y = np.array(_numbers([table[target][row] for row in training], target))
        scale = Scale(float(y.mean()), float(y.std()) or 1.0)
    classes = tuple(sorted({text_of(value) for value in values})) if task and kind == "classification" else ()
    if classes and len(classes) < 2:
        raise DataError(f"column {target!r} has a single class, {classes[0]!r}.")
    prepare = TablePreprocessing(tuple(columns), scale)
    return TablePlan(str(file), kind, task, target, *parts, prepare, classes, tuple(left_out))


def from_table(path: str | Path, split: Split = "train", **options: Any) -> LabelledClasses | GroupedTasks:
    r"""Open a split of a table.

    Types are inferred; ``plan_table(path).lines()`` says which. Numbers are scaled by the mean and
    spread of the training tasks alone. A missing number becomes that mean, a missing category no category, and a
    further feature says so if there were such rows in training. Rows without a task or a target are left out.

    Args:
        path: a ``.csv``, ``.tsv`` or ``.parquet`` file.
        split: the split to open. No task, or without a task column no class, is in two splits.
        options: as for :func:`innerloop.data.table.plan_table`: ``task``, ``target``, ``features``, ``kind``,
            ``split_seed``, ``val_share`` and ``test_share``.

    Raises:
        DataError: the file is no table, or an option does not fit.

    Example:
        >>> import tempfile
        >>> rows = [f"{m},{t},{t * m}.5" for m in range(5) for t in range(9)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "machines.csv"
        ...     _ = file.write_text("task,temperature,wear\n" + "\n".join(rows))
        ...     from_table(file)
        GroupedTasks(3 regression tasks, 27 examples of shape (1,), 9 a task)
    """
    return plan_table(path, **options).open(split, Location())


def plan_kind(path: Path, target: str | None) -> Kind:
    """The kind of the tasks of a table, see :func:`plan_table`."""
    table = read_table(path)
    name = target or next((name for name in table if name.lower() in _TARGET_NAMES), list(table)[-1])
    return _kind_of([value for value in table.get(name, []) if not is_missing(value)])


def _kind_of(values: Sequence[Any]) -> Kind:
    numbers = [_number(value) for value in values]
    if any(isinstance(value, bool) for value in values) or any(number is None for number in numbers):
        return "classification"
    whole = all(number is not None and number.is_integer() for number in numbers)
    return "classification" if whole and len(set(numbers)) <= _MOST_CLASSES else "regression"


def _column(name: str, values: Sequence[Any], training: Sequence[int]) -> NumberColumn | CategoryColumn | str:
    """A column of features, or why it cannot be one."""
    present = [value for value in values if not is_missing(value)]
    seen = [values[row] for row in training if not is_missing(values[row])]
    missing = len(seen) < len(training)
    if not seen:
        return "no values in the training tasks"
    if all(_number(value) is not None for value in present):
        numbers = np.array([float(value) for value in seen])
        return NumberColumn(name, float(numbers.mean()), float(numbers.std()) or 1.0, missing)
    categories = Counter(text_of(value) for value in seen)
    if len(categories) > _MOST_CATEGORIES:
        return f"text with {len(categories)} different values"
    return CategoryColumn(name, tuple(sorted(categories)), missing)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _numbers(values: Sequence[Any], column: str) -> list[float]:
    numbers = [_number(value) for value in values]
    if None in numbers:
        raise DataError(f"column {column!r} holds {values[numbers.index(None)]!r}: expected a number, for regression.")
    return [number for number in numbers if number is not None]


def _opener(kind: Kind) -> Callable[..., TablePlan]:
    """The function that a recipe opens a table with. Only the kind of the tasks differs."""

    def plan(
        place: Location,
        *,
        task: str | None = None,
        target: str | None = None,
        features: tuple[str, ...] = (),
        split_seed: int = 0,
        val_share: float = 0.2,
        test_share: float = 0.2,
        small_classes: Literal["refuse", "skip"] = "refuse",
    ) -> TablePlan:
        """A table, for a recipe.

        Args:
            place: where the file is.
            task: column that says which task a row belongs to; one named task if not given.
            target: column to predict; one named target, label, class or y, or the last one, if not given.
            features: columns of features; all others if not given.
            split_seed: the seed of the random split.
            val_share: share of the tasks for validation.
            test_share: share of the tasks for test.
            small_classes: refuse tasks or classes with too few rows, or skip them.
        """
        if place.root is None:
            raise DataError("the table is not given: name it with --data FILE.")
        return plan_table(
            place.root,
            task=task,
            target=target,
            features=features,
            kind=kind,
            split_seed=split_seed,
            val_share=val_share,
            test_share=test_share,
        )

    return plan


registered_data("table", kind="classification", network="mlp", plan=True)(_opener("classification"))
registered_data("table_regression", kind="regression", network="mlp", plan=True)(_opener("regression"))
