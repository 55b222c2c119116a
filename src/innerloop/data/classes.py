"""Labelled examples of any number of classes, each with any number of examples, and the tasks drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from innerloop.data._draws import check_counts, draw_distinct, moved
from innerloop.data.errors import DataError
from innerloop.data.preprocess import ImagePreprocessing, Preprocessing
from innerloop.display import first_few
from innerloop.episode import Episode

__all__ = ["ClassBatches", "ClassEpisodes", "Inputs", "LabelledClasses", "TensorInputs"]


class Inputs(Protocol):
    """The inputs of a data set, of which a few are asked for at a time."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How the inputs were prepared, and how new ones are."""
        ...

    def __len__(self) -> int:
        """The number of inputs."""
        ...

    def at(self, rows: Tensor) -> Tensor:
        """The prepared inputs ``[n, *shape]`` of ``n`` rows, numbers from 0."""
        ...


@dataclass(frozen=True, eq=False)
class TensorInputs:
    """Inputs in one tensor. It may be a view of a file that is larger than memory.

    Args:
        tensor: prepared inputs ``[N, *shape]`` of floats, or the pixels of images as uint8 ``[N, channels, H, W]``.
        preprocessing: how new inputs are prepared. It also finishes pixels.

    Raises:
        ValueError: the tensor has another shape than prepared inputs.

    Example:
        >>> from innerloop.data.preprocess import ImagePreprocessing
        >>> pixels = torch.full((3, 1, 2, 2), 255, dtype=torch.uint8)
        >>> TensorInputs(pixels, ImagePreprocessing((2, 2), channels=1)).at(torch.tensor([2])).unique()
        tensor([1.])
    """

    tensor: Tensor
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        is_pixels = self.tensor.dtype == torch.uint8 and isinstance(self.preprocessing, ImagePreprocessing)
        if tuple(self.tensor.shape[1:]) != self.preprocessing.shape or not (
            is_pixels or self.tensor.is_floating_point()
        ):
            raise ValueError(
                f"the inputs are {self.tensor.dtype} {list(self.tensor.shape)}: expected prepared inputs "
                f"{['N', *self.preprocessing.shape]}, or the pixels of such images."
            )

    def __len__(self) -> int:
        """The number of inputs."""
        return len(self.tensor)

    def at(self, rows: Tensor) -> Tensor:
        """The prepared inputs of some rows."""
        found = self.tensor.index_select(0, rows.to(self.tensor.device))
        if isinstance(self.preprocessing, ImagePreprocessing) and not found.is_floating_point():
            return self.preprocessing.finish(found)
        return found


@dataclass(frozen=True, eq=False)
class LabelledClasses:
    """``C`` classes with any numbers of examples. :func:`from_arrays` and its relatives make it.

    Args:
        inputs: the inputs of all examples.
        names: the ``C`` names of the classes.
        members: the rows of the inputs that belong to each class: ``C`` tensors of indices.
        options: for messages: how the command line leaves small classes out, if it does.

    Raises:
        DataError: there are no classes, a class has no example, or two classes have one name.

    Example:
        >>> import innerloop as il
        >>> data = il.data.from_arrays(np.random.rand(40, 1, 8, 8), ["cat"] * 10 + ["dog"] * 25 + ["eel"] * 5)
        >>> data
        LabelledClasses(3 classes, 40 examples of shape (1, 8, 8), 5 to 25 a class)
        >>> episode = data.episodes(ways=2, shots=1, queries=4, tasks=8)(torch.Generator().manual_seed(0))
        >>> list(episode.support_x.shape), list(episode.query_x.shape)
        ([8, 2, 1, 8, 8], [8, 8, 1, 8, 8])
    """

    inputs: Inputs
    names: tuple[str, ...]
    members: tuple[Tensor, ...]
    options: str = ""

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.members) or len(set(self.names)) < len(self.names):
            raise DataError(f"there are {len(self.names)} classes: expected at least one, and different names.")
        if empty := [name for name, rows in zip(self.names, self.members, strict=True) if not len(rows)]:
            raise DataError(f"the class {empty[0]!r} has no examples. Leave it out.")

    def __repr__(self) -> str:
        return f"LabelledClasses({self.classes} classes, {examples_in_words(self.members, self.preprocessing)} a class)"

    @property
    def preprocessing(self) -> Preprocessing:
        """How the inputs were prepared. A learner that keeps it can take new inputs as they are."""
        return self.inputs.preprocessing

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.names)

    def episodes(self, ways: int, shots: int, queries: int, tasks: int) -> ClassEpisodes:
        """Make a sampler of meta-batches of few-shot classification tasks.

        Args:
            ways: the number of classes in a task, ``N``.
            shots: the number of support examples of each class, ``K``.
            queries: the number of query examples of each class, ``Q``. It may be 0.
            tasks: the number of tasks in a meta-batch, ``T``.

        Raises:
            ValueError: a number is out of range, or there are too few classes.
            DataError: some classes have too few examples. The message names them.

        Example:
            >>> import innerloop as il
            >>> data = il.data.from_arrays(np.random.rand(30, 4, 4), ["ant"] * 2 + ["bee"] * 12 + ["cow"] * 16)
            >>> data.episodes(ways=2, shots=1, queries=5, tasks=4)
            Traceback (most recent call last):
                ...
            innerloop.data.errors.DataError: 1 of 3 classes have fewer than the 6 examples that shots=1 and queries=5 \
need: ant (2). Add examples, ask for fewer, or leave these classes out (.at_least(6)).
            >>> data.at_least(6).episodes(ways=2, shots=1, queries=5, tasks=4).ways
            2
        """
        return ClassEpisodes(self, ways, shots, queries, tasks)

    def batches(self, size: int, tasks: int = 1) -> ClassBatches:
        """Make a sampler of mini-batches of all classes, to train an ordinary classifier.

        Args:
            size: the number of examples in a mini-batch.
            tasks: the number of mini-batches drawn at a time.

        Raises:
            ValueError: ``size`` or ``tasks`` is below 1.
        """
        return ClassBatches(self, size, tasks)

    def at_least(self, examples: int) -> LabelledClasses:
        """Only the classes that have this many examples.

        Raises:
            DataError: no class has.
        """
        return self._where(lambda name, rows: len(rows) >= examples, f"has {examples} examples")

    def only(self, names: Sequence[str]) -> LabelledClasses:
        """Only the classes of these names.

        Raises:
            DataError: there is no class of one of the names.
        """
        if absent := [name for name in names if name not in set(self.names)]:
            raise DataError(f"there is no class {first_few(absent)}. The classes are: {first_few(self.names)}.")
        wanted = set(names)
        return self._where(lambda name, rows: name in wanted, "is asked for")

    def split(
        self, *, val: float = 0.2, test: float = 0.2, seed: int = 0
    ) -> tuple[LabelledClasses, LabelledClasses, LabelledClasses]:
        """Split the classes at random: training, validation and test classes, none in two of them.

        Args:
            val: the share of the classes that are for validation.
            test: the share of the classes that are for test.
            seed: another seed gives another split. The same classes and seed give the same split everywhere.

        Raises:
            DataError: a share is out of range, or a part would have no class.
        """
        parts = split_names(self.names, val=val, test=test, seed=seed)
        train, valid, tested = (self.only(part) for part in parts)
        return train, valid, tested

    def _where(self, kept: Callable[[str, Tensor], bool], what: str) -> LabelledClasses:
        pairs = [(n, rows) for n, rows in zip(self.names, self.members, strict=True) if kept(n, rows)]
        if not pairs:
            raise DataError(f"none of the {self.classes} classes {what}.")
        names, members = zip(*pairs, strict=True)
        return LabelledClasses(self.inputs, names, members, self.options)


def split_names(
    names: Sequence[str], *, val: float = 0.2, test: float = 0.2, seed: int = 0
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names for training, validation and test, each sorted. The order of the names given does not matter.

    Raises:
        DataError: a share is out of range, or a part would be empty.

    Example:
        >>> train, val, test = split_names([f"c{i}" for i in range(10)], seed=1)
        >>> len(train), len(val), len(test)
        (6, 2, 2)
    """
    if val < 0 or test <= 0 or val + test >= 1:
        raise DataError(f"the shares val={val:g} and test={test:g} must be positive, and less than 1 together.")
    ordered = sorted(names)
    keys = np.random.Generator(np.random.PCG64(seed)).random(len(ordered))
    shuffled = [ordered[i] for i in np.argsort(keys, kind="stable")]
    tests, vals = round(test * len(names)), round(val * len(names))
    if not tests or tests + vals >= len(names) or (val and not vals):
        raise DataError(
            f"{len(names)} classes or tasks cannot be split into {1 - val - test:.0%} for training, {val:.0%} for "
            f"validation and {test:.0%} for test: a part would be empty. Add some, or choose other shares."
        )
    rest = shuffled[tests + vals :]
    return tuple(sorted(rest)), tuple(sorted(shuffled[tests : tests + vals])), tuple(sorted(shuffled[:tests]))


@dataclass(frozen=True, eq=False)
class ClassEpisodes:
    """A sampler, a pure function of a generator: it draws a meta-batch of few-shot classification tasks.

    The classes of a task are distinct. So are the examples of a class, over the support and the query set together.
    Examples are in class-major order. The tensors are on the generator's device. :meth:`LabelledClasses.episodes` makes
    it and documents the arguments and errors.
    """

    source: LabelledClasses
    ways: int
    shots: int
    queries: int
    tasks: int

    def __post_init__(self) -> None:
        check_counts(ways=(self.ways, 2), shots=(self.shots, 1), queries=(self.queries, 0), tasks=(self.tasks, 1))
        source, needed = self.source, self.shots + self.queries
        if self.ways > source.classes:
            raise ValueError(f"ways={self.ways}: there are {source.classes} classes ({first_few(source.names)}).")
        pairs = zip(source.names, source.members, strict=True)
        if small := [f"{name} ({len(rows)})" for name, rows in pairs if len(rows) < needed]:
            raise DataError(
                f"{len(small)} of {source.classes} classes have fewer than the {needed} examples that "
                f"shots={self.shots} and queries={self.queries} need: {first_few(small)}. Add examples, ask for fewer, "
                f"or leave these classes out ({source.options or f'.at_least({needed})'})."
            )

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next meta-batch."""
        source = self.source
        counts = torch.tensor([len(rows) for rows in source.members], device=generator.device)
        starts = counts.cumsum(0) - counts
        total = torch.full((self.tasks,), source.classes, device=generator.device)
        classes = draw_distinct(total, self.ways, generator)
        places = draw_distinct(counts[classes], self.shots + self.queries, generator) + starts[classes].unsqueeze(-1)
        rows = torch.cat(source.members)[places.cpu()]
        tensors = []
        for chosen in rows.split([self.shots, self.queries], dim=-1):
            x = source.inputs.at(chosen.flatten())
            label = torch.arange(self.ways).repeat_interleave(chosen.shape[-1]).expand(self.tasks, -1)
            tensors += [x.view(self.tasks, -1, *x.shape[1:]), label.contiguous()]
        return moved(tensors, generator.device)


@dataclass(frozen=True, eq=False)
class ClassBatches:
    """A sampler, a pure function of a generator: it draws mini-batches of all classes, as the query sets of tasks.

    Each example is drawn with the same probability, with replacement. The support set is only the first example of the
    query set, because an episode must have one. :meth:`LabelledClasses.batches` makes it.
    """

    source: LabelledClasses
    size: int
    tasks: int

    def __post_init__(self) -> None:
        check_counts(size=(self.size, 1), tasks=(self.tasks, 1))

    @property
    def classes(self) -> int:
        """The number of classes that the labels distinguish."""
        return self.source.classes

    def __call__(self, generator: torch.Generator) -> Episode:
        """Draw the next mini-batches."""
        members = self.source.members
        counts = torch.tensor([len(rows) for rows in members])
        shape = (self.tasks, self.size)
        chosen = torch.randint(int(counts.sum()), shape, generator=generator, device=generator.device).cpu()
        y = torch.repeat_interleave(torch.arange(len(members)), counts)[chosen]
        x = self.source.inputs.at(torch.cat(members)[chosen.flatten()])
        x = x.view(*shape, *x.shape[1:])
        return moved([x[:, :1], y[:, :1], x, y], generator.device)


def examples_in_words(members: Sequence[Tensor], preprocessing: Preprocessing) -> str:
    """How many examples there are, their shape, and how many each class or task has."""
    counts = [len(rows) for rows in members]
    span = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
    return f"{sum(counts)} examples of shape {preprocessing.shape}, {span}"
