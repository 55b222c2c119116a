"""The published cells: what the papers report, and how this project trains and tests for each figure.

A cell is one figure of a paper's table: a method, a number of ways and of shots, and a normalisation mode. A training
is one meta-training. It may serve several cells, as in Reptile and prototypical networks, where 1-shot and 5-shot
figures, or figures in two modes, are of the same learner.

Trainings have fewer iterations than the papers', an outer rate that falls to zero, and where it says so other small
changes. The inner loops and the networks are those of the recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from innerloop.inner.model import Norm
from innerloop.recipes.config import Config
from innerloop.recipes.registry import recipe

__all__ = ["PUBLISHED", "TRAININGS", "Paper", "PublishedCell", "PublishedTraining"]


@dataclass(frozen=True)
class Paper:
    """A figure of a paper.

    Args:
        mean: the accuracy in %. None means that there is none in a table.
        interval: what follows the sign ±. None means that there is none.
        source: where the figure is.
    """

    mean: float | None
    interval: float | None
    source: str


@dataclass(frozen=True)
class PublishedTraining:
    """One meta-training, which serves one cell or several.

    Args:
        name: its name, and that of its folder.
        recipe: the recipe that it begins from.
        changes: the settings that differ from the recipe's.
    """

    name: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> Config:
        """The whole configuration, with the seed 0."""
        return recipe(self.recipe).override(**self.changes)


@dataclass(frozen=True)
class PublishedCell:
    """One figure of a paper, and the training and the test that are to reach it.

    Args:
        experiment: the data set, and the ways and shots of the tasks in test, such as ``omniglot-5w1s``.
        title: the method's name in tables.
        paper: the figure.
        training: the training.
        norm: the normalisation mode in test.
        tasks: the number of tasks in test.
        queries: the number of query examples of each class in test. None means the recipe's.
        ensemble: the number of learners whose outputs are averaged, as published; 1 for none.
    """

    experiment: str
    title: str
    paper: Paper
    training: PublishedTraining
    norm: Norm
    tasks: int = 600
    queries: int | None = None
    ensemble: int = 1

    @property
    def name(self) -> str:
        """A name that no other cell has, such as ``omniglot-5w1s-maml-transductive``."""
        return f"{self.experiment}-{self.method}-{self.norm}"

    @property
    def method(self) -> str:
        """The method's name in recipes."""
        return self.training.config.method.replace("_", "-")

    @property
    def dataset(self) -> str:
        """The first word of the experiment: ``omniglot`` or ``sinusoid``."""
        return self.experiment.partition("-")[0]

    @property
    def setting(self) -> str:
        """The rest of the experiment, such as ``5w1s``; empty for sinusoids."""
        return self.experiment.partition("-")[2]

    def test_config(self, seed: int) -> Config:
        """The configuration of the test: the training's, with the tasks of this cell."""
        tested = recipe(self.experiment + "-maml")
        changes: dict[str, Any] = {"shots": tested.shots, "test_tasks": self.tasks, "seed": seed}
        changes["test_queries"] = tested.test_queries if self.queries is None else self.queries
        if not tested.regression:
            changes["ways"] = tested.ways
        return self.training.config.override(**changes)


_FINN = "Finn et al. 2017, table 1"
_NICHOL = "Nichol et al. 2018, table 2"
_SHARED = {"outer_schedule": "cosine", "val_tasks": 300, "val_every": 1000}
# The head begins as PyTorch's linear layer does, all parameters are adapted, and there are more queries in training.
_SHORT = {**_SHARED, "outer_lr": 3e-3, "head_std": None, "adapt": "*"}
_SIZES: dict[str, dict[str, Any]] = {
    "5w1s": {"tasks": 16, "queries": 5, "iterations": 8000},
    "5w5s": {"tasks": 16, "queries": 5, "iterations": 8000},
    "20w1s": {"tasks": 8, "queries": 2, "iterations": 8000},
    "20w5s": {"tasks": 4, "queries": 5, "iterations": 8000},
}


def _like_maml(method: str, setting: str, **changes: Any) -> PublishedTraining:
    """The training of a method whose outer optimizer is Adam and whose tasks are MAML's."""
    name = f"omniglot-{setting}-{method}"
    based_on = (
        name if f"{setting[-2]}" == "1" or method in ("maml", "fomaml") else f"omniglot-{setting[:-2]}1s-{method}"
    )
    shots = {} if based_on == name else {"shots": int(setting[-2]), "test_queries": int(setting[-2])}
    kept = {key: value for key, value in _SHORT.items() if key != "adapt" or method in ("maml", "fomaml", "imaml")}
    return PublishedTraining(name, based_on, {**_SIZES[setting], **kept, **shots, **changes})


def _prototypes(shots: int, iterations: int) -> PublishedTraining:
    """The training of prototypical networks for a number of shots, with episodes of 60 classes."""
    changes = {**_SHARED, "iterations": iterations, "outer_lr": 2e-3, "pool": "flatten"}
    if shots > 1:
        changes |= {"shots": shots, "val_every": 500}
    return PublishedTraining(f"omniglot-5w{shots}s-prototypical", "omniglot-5w1s-prototypical", changes)


def _reptile(ways: int, **changes: Any) -> PublishedTraining:
    """The training of Reptile for a number of ways: its paper trains on 10 shots whatever the test has."""
    name = f"omniglot-{ways}w1s-reptile"
    return PublishedTraining(name, name, {"val_every": 1000, "val_tasks": 100, **changes})


_REPTILES = {
    5: _reptile(5, tasks=10, inner_lr=4e-3, iterations=20_000),
    20: _reptile(20, tasks=5, inner_lr=2e-3, iterations=20_000),
}
_PROTOTYPES = {1: _prototypes(1, 4000), 5: _prototypes(5, 2500)}
_PLUS = {"statistics_tasks": 0, "multi_step_iterations": 800}

# The settings in the order in which they are cheap, and of each method what its paper reports: mean, interval.
_SETTINGS = ("5w1s", "5w5s", "20w1s", "20w5s")
_FIGURES: dict[str, tuple[str, str, tuple[tuple[float, float | None] | None, ...], dict[str, Any]]] = {
    "maml": ("MAML", _FINN, ((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)), {}),
    "fomaml": ("FOMAML", _NICHOL, ((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)), {}),
    "maml-plus-plus": (
        "MAML++",
        "Antoniou et al. 2019, table 1",
        ((99.47, None), (99.93, None), (97.65, 0.05), (99.33, 0.03)),
        _PLUS,
    ),
    "anil": ("ANIL", "Raghu et al. 2020, table 2", (None, None, (96.2, 0.5), (98.0, 0.3)), {}),
    "meta-sgd": (
        "Meta-SGD",
        "Li et al. 2017, table 2",
        ((99.53, 0.26), (99.93, 0.09), (95.93, 0.38), (98.97, 0.19)),
        {},
    ),
    "imaml": (
        "iMAML (Hessian-free)",
        "Rajeswaran et al. 2019, table 2",
        ((99.50, 0.26), (99.74, 0.11), (96.18, 0.36), (99.14, 0.1)),
        {},
    ),
    "cavia": ("CAVIA", "no figure for Omniglot", (None, None, None, None), {}),
}
_MODES: tuple[Norm, Norm] = ("inductive", "transductive")
_INDUCTIVE = ((95.39, 0.09), (98.90, 0.10), (88.14, 0.15), (96.65, 0.33))
_TRANSDUCTIVE = ((97.68, 0.04), (99.48, 0.06), (89.43, 0.14), (97.12, 0.32))


def _omniglot() -> list[PublishedCell]:
    """The cells of Omniglot, those that need less time first."""
    cells = []
    for column, setting in enumerate(_SETTINGS):
        experiment = f"omniglot-{setting}"
        ways, shots = map(int, setting.removesuffix("s").split("w"))
        for method, (title, source, figures, changes) in _FIGURES.items():
            figure = figures[column]
            paper = Paper(None, None, source) if figure is None else Paper(*figure, source)
            training = _like_maml(method, setting, **changes)
            ensemble = 5 if method == "maml-plus-plus" else 1
            cells.append(PublishedCell(experiment, title, paper, training, "transductive", 600, shots, ensemble))
        snell = Paper((98.8, 99.7, 96.0, 98.9)[column], None, "Snell et al. 2017, table 1")
        prototypes = _PROTOTYPES[shots]
        for mode in _MODES:
            cells.append(PublishedCell(experiment, "Prototypical networks", snell, prototypes, mode, 1000, 5))
        for mode, figures_of_mode in zip(_MODES, (_INDUCTIVE, _TRANSDUCTIVE), strict=True):
            paper = Paper(*figures_of_mode[column], _NICHOL)
            cells.append(PublishedCell(experiment, "Reptile", paper, _REPTILES[ways], mode, 2000, 1))
    return cells


def _sinusoids() -> list[PublishedCell]:
    """The cells of sinusoids. The papers have curves, and no figures in a table."""
    titles = {"maml": "MAML", "fomaml": "FOMAML", "reptile": "Reptile"}
    short = {"outer_schedule": "cosine", "iterations": 20_000, "val_every": 5000}
    return [
        PublishedCell(
            "sinusoid",
            title,
            Paper(None, None, "curves, no figure in a table"),
            PublishedTraining(f"sinusoid-{method}", f"sinusoid-{method}", {} if method == "reptile" else short),
            "transductive",
        )
        for method, title in titles.items()
    ]


PUBLISHED: tuple[PublishedCell, ...] = (*_omniglot(), *_sinusoids())
"""Every published cell."""

TRAININGS: dict[str, PublishedTraining] = {cell.training.name: cell.training for cell in PUBLISHED}
"""Every training, by name."""
