"""Examples that belong to given tasks, such as the readings of one machine each, and the episodes drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from innerloop.data._draws import check_counts, draw_distinct, moved
from innerloop.data.classes import Inputs, examples_in_words, split_names
from innerloop.data.errors import DataError
from innerloop.data.preprocess import Preprocessing
from innerloop.display import first_few
from innerloop.episode import Episode

__all__ = ["GroupedEpisodes", "GroupedTasks"]


@dataclass(frozen=True, eq=False)
class GroupedTasks:
    """Tasks that the data names. :func:`from_arrays` with ``tasks=``, and tables with a task column, make it.

    In regression an episode draws rows of a task. In classification it draws rows of each class of a task, and a class
    has the same number in every task.

    Args:
        inputs: the inputs of all examples.
        targets: float32 ``[N, 1]`` for regression, int64 ``[N]`` from 0 for classification.
        names: the names of the tasks.
        members: the rows of each task.
        classes: the names of the classes, in the order of their numbers. Empty for regression.
        options: for messages: how the command line leaves small tasks out, if it does.

    Raises:
        DataError: there are no tasks.

    Example:
        >>> import innerloop as il
        >>> machines = ["a"] * 10 + ["b"] * 20
        >>> data = il.data.from_arrays(torch.rand(30, 4), torch.rand(30), tasks=machines)
        >>> data
        GroupedTasks(2 regression tasks, 30 examples of shape (4,), 10 to 20 a task)
    """

    inputs: Inputs
    targets: Tensor
    names: tuple[str, ...]
    members: tuple[Tensor, ...]
    classes: tuple[str, ...] = ()
    options: str = ""

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("there are no tasks: expected at least one.")

    @classmethod
    def of(cls, inputs: Inputs, targets: Sequence[Any], tasks: Sequence[Any]) -> GroupedTasks:
        """Group examples by task. Targets that are floats mean regression; all others are names of classes.

        Raises:
            DataError: the lengths differ, a target is missing, or targets are of different kinds.
        """
        from innerloop.data.arrays import members_of

        if len(targets) != len(tasks):
            raise DataError(f"there are {len(targets)} targets and {len(tasks)} entries of tasks: expected as many.")
        names, members = members_of(tasks)
        if any(isinstance(target, float) for target in targets):
            scale = inputs.preprocessing.target
            try:
                values = torch.tensor([float(target) for target in targets], dtype=torch.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"the targets are floats and something else ({error}).") from error
            if not bool(values.isfinite().all()):
                raise DataError("the targets hold numbers that are missing or infinite: leave those examples out.")
            scaled = values.float().unsqueeze(1) if scale is None else scale(values.tolist())
            return cls(inputs, scaled, names, members)
        classes, rows = members_of(targets)
        numbers = torch.empty(len(targets), dtype=torch.int64)
        for number, row in enumerate(rows):
            numbers[row] = number
        return cls(inputs, numbers, names, members, classes)

    def __repr__(self) -> str:
        what = f"classification tasks of {len(self.classes)} classes" if self.classes else "regression tasks"
        return f"GroupedTasks({len(self.names)} {what}, {examples_in_words(self.members, self.preprocessing)} a task)"

    @property
    def preprocessing(self) -> Preprocessing:
        """How the inputs were prepared. A learner that keeps it can take new inputs as they are."""
        return self.inputs.preprocessing

    @property
    def kind(self) -> Literal["classification", "regression"]:
        """The kind of the tasks."""
        return "classification" if self.classes else "regression"

    def episodes(self, *counts: int, **named: int) -> GroupedEpisodes:
        """Make a sampler of meta-batches.

        For regression: ``episodes(shots, queries, tasks)``, with ``shots`` support rows and ``queries`` query rows of
        each task. For classification: ``episodes(ways, shots, queries, tasks)``, with the rows of each class; ``ways``
        is the number of classes, since a class means the same in every task.

        Raises:
            ValueError: a number is out of range, or ``ways`` is not the number of classes.
            DataError: some tasks have too few rows. The message names them.

        Example:
            >>> import innerloop as il
            >>> faults = il.data.from_arrays(torch.rand(40, 3), ["ok", "broken"] * 20, tasks=[0] * 20 + [1] * 20)
            >>> episode = faults.episodes(ways=2, shots=3, queries=5, tasks=4)(torch.Generator().manual_seed(0))
            >>> faults.classes, episode.support_y[0]
            (('broken', 'ok'), tensor([0, 0, 0, 1, 1, 1]))
        """
        names = ("ways", "shots", "queries", "tasks") if self.classes else ("shots", "queries", "tasks")
        if len(counts) + len(named) != len(names) or not set(named) <= set(names[len(counts) :]):
            raise ValueError(f"{self.kind} tasks need the arguments {', '.join(names)}.")
        given = {**dict(zip(names, counts, strict=False)), **named}
        if self.classes and given["ways"] != len(self.classes):
            raise ValueError(
                f"ways={given['ways']}: the tasks have {len(self.classes)} classes ({first_few(self.classes)}), which "
                f"mean the same in every task. Use ways={len(self.classes)}."
            )
        return GroupedEpisodes(self, given["shots"], given["queries"], given["tasks"])

    def at_least(self, examples: int) -> GroupedTasks:
        """Only the tasks that have this many rows, in classification of each class.

        Raises:
            DataError: no task has.
        """
        small = {name for name, _, count in self.counts() if count < examples}
        if len(small) == len(self.names):
            of_class = " of each class" if self.classes else ""
            raise DataError(f"none of the {len(self.names)} tasks has {examples} rows{of_class}.")
        return self.only([name for name in self.names if name not in small])

    def only(self, names: Sequence[str]) -> GroupedTasks:
        """Only the tasks of these names.

        Raises:
            DataError: there is no task of one of the names.
        """
        rows = dict(zip(self.names, self.members, strict=True))
        if absent := [name for name in names if name not in rows]:
            raise DataError(f"there is no task {first_few(absent)}. The tasks are: {first_few(self.names)}.")
        kept = tuple(rows[name] for name in names)
        return GroupedTasks(self.inputs, self.targets, tuple(names), kept, self.classes, self.options)

    def split(
        self, *, val: float = 0.2, test: float = 0.2, seed: int = 0
    ) -> tuple[GroupedTasks, GroupedTasks, GroupedTasks]:
        """Split the tasks at random: training, validation and test tasks, none in two of them.

        Args:
            val: the share of the tasks that are for validation.
            test: the share of the tasks that are for test.
            seed: another seed gives another split.

        Raises:
            DataError: a share is out of range, or a part would have no task.
        """
        train, valid, tested = (self.only(part) for part in split_names(self.names, val=val, test=test, seed=seed))
        return train, valid, tested

    def counts(self) -> list[tuple[str, str, int]]:
        """The number of rows of each task, and in classification of each class of each task: name, class, number."""
        found = []
        for name, rows in zip(self.names, self.members, strict=True):
            if not self.classes:
                found.append((name, "", len(rows)))
                continue
            numbers = torch.bincount(self.targets[rows], minlength=len(self.classes)).tolist()
            found += [(name, label, count) for label, count in zip(self.classes, numbers, strict=True)]
        return found


@dataclass(frozen=True, eq=False)
class GroupedEpisodes:
    """A sampler, a pure function of a generator: it draws a meta-batch of the tasks that the data names.

    The tasks of a meta-batch are distinct if there are enough. The rows of a task are distinct, over the support and
    the query set together. :meth:`GroupedTasks.episodes` makes it and documents the arguments and errors.
    """

    source: GroupedTasks
    shots: int
    queries: int
    tasks: int

    def __post_init__(self) -> None:
        check_counts(shots=(self.shots, 1), queries=(self.queries, 0), tasks=(self.tasks, 1))
        needed, source = self.shots + self.queries, self.source
        small = [(name, label, count) for name, label, count in source.counts() if count < needed]
        if small:
            shown = [f"{name} ({count}{f' of {label}' if label else ''})" for name, label, count in small]
            of_class = " of each class" if source.classes else ""
            raise DataError(
                f"{len({name for name, _, _ in small})} of {len(source.names)} tasks have fewer than the {needed} rows"
                f"{of_class} that shots={self.shots} and queries={self.queries} need: {first_few(shown)}. Add rows, "
                f"ask for fewer, or leave these tasks out ({source.options or f'.at_least({needed})'})."
            )

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next meta-batch."""
        source, device = self.source, generator.device
        groups = self._groups()
        tasks = len(source.names)
        distinct = min(self.tasks, tasks)
        drawn = [draw_distinct(torch.tensor(tasks, device=device), distinct, generator)]
        if self.tasks > distinct:  # with replacement beyond all tasks
            drawn.append(torch.randint(tasks, (self.tasks - distinct,), generator=generator, device=device))
        chosen = torch.cat(drawn).cpu().tolist()
        counts = torch.tensor([[len(rows) for rows in groups[task]] for task in chosen], device=device)
        places = draw_distinct(counts, self.shots + self.queries, generator).cpu()
        rows = torch.stack(
            [
                torch.stack([group[place] for group, place in zip(groups[task], at, strict=True)])
                for task, at in zip(chosen, places, strict=True)
            ]
        )
        tensors = []
        for part in rows.split([self.shots, self.queries], dim=-1):
            flat = part.flatten(1)
            x = source.inputs.at(flat.flatten())
            tensors += [x.view(self.tasks, -1, *x.shape[1:]), source.targets[flat]]
        return moved(tensors, device)

    def _groups(self) -> list[list[Tensor]]:
        """The rows of each task, by class if there are classes."""
        source = self.source
        if not source.classes:
            return [[rows] for rows in source.members]
        return [
            [rows[source.targets[rows] == number] for number in range(len(source.classes))] for rows in source.members
        ]
