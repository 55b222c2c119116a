"""The typed configuration of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_type_hints

from innerloop.data import DATASETS
from innerloop.metagrad import Displacement
from innerloop.methods.base import CARDS, METHODS, Card, Method
from innerloop.nets import NETS
from innerloop.recipes.options import ConfigError, Option, flag, options_of

__all__ = [
    "Config",
    "all_options",
    "common_options",
    "data_options",
    "elsewhere",
    "method_options",
    "network_name",
    "network_options",
]

NESTED = ("dataset_settings", "network_settings", "method_settings")
"""The fields that hold the options of the data set, of the network and of the method."""

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes. Each recipe is one of these.

    Make one with :meth:`of` and change one with :meth:`override`. They take all settings by their names on the command
    line, put the options of the data set, the network and the method into the three mappings, and fill in defaults.

    Raises:
        ConfigError: a setting is unknown, of another type or out of range, or settings do not fit together.

    Example:
        >>> config = Config.of(method="fomaml", inner_lr=0.1, filters=32)
        >>> config.method_settings["inner_lr"], config.network_settings["filters"], config.ways
        (0.1, 32, 5)
    """

    # Task
    dataset: str = "omniglot"
    """Data set."""
    dataset_settings: Settings = field(default_factory=dict)
    """Options of the data set."""
    ways: int = 5
    """Classes in a task."""
    shots: int = 1
    """Support examples of each class, in validation and test; of a task in regression."""
    train_ways: int | None = None
    """Classes in a task of meta-training, or of joint training, which must be all there are; as many as ways if not
    given."""
    train_shots: int | None = None
    """Support examples of each class in meta-training; as many as shots if not given."""
    joint_batch: int = 64
    """Images in a mini-batch of joint training."""
    queries: int = 1
    """Query examples of each class in meta-training; of a task in regression."""
    test_queries: int = 1
    """Query examples of each class in validation and test; of a task in regression."""

    # Network and method
    network_settings: Settings = field(default_factory=dict)
    """Options of the network."""
    method: str = "maml"
    """Meta-learning method."""
    method_settings: Settings = field(default_factory=dict)
    """Options of the method."""
    norm: Literal["transductive", "inductive"] = "transductive"
    """Batch-norm statistics: of the whole query set, or of each query with the support set."""

    # The outer loop
    iterations: int = 60_000
    """Outer updates."""
    tasks: int = 32
    """Tasks in a meta-batch."""
    outer_optimizer: Literal["adam", "sgd"] = "adam"
    """Outer optimizer; sgd makes the step theta + outer_lr * displacement in Reptile."""
    outer_lr: float = 1e-3
    """Outer learning rate, beta."""
    outer_schedule: Literal["constant", "linear", "cosine", "halving"] = "constant"
    """How the outer learning rate goes down over training, if it does: to zero, or by half every 2000 iterations."""

    # Protocol
    val_tasks: int = 200
    """Tasks of each validation."""
    val_every: int = 500
    """Iterations between validations."""
    test_tasks: int = 600
    """Tasks of an evaluation."""
    statistics_tasks: int = 0
    """Tasks to gather batch-norm statistics for each inner step from, once trained, for evaluate --norm per_step; 0 for
    none."""
    seed: int = 0
    """Seed of the initial weights and of all tasks."""

    def __post_init__(self) -> None:
        _check_known(self.dataset, self.method)
        for name, option in common_options().items():
            option.checked(getattr(self, name), least=LEAST.get(name, -math.inf))
        for part, options in self._nested().items():
            if (given := getattr(self, part)).keys() != options.keys():
                raise ConfigError(f"{part} has {', '.join(given) or 'nothing'}; expected: {', '.join(options) or 'no'}")
        if self.ways < 2 and not self.regression:
            raise ConfigError(f"--ways is {self.ways}; it must be a whole number of at least 2")
        if self.train_ways is not None and (owner := elsewhere("train_ways", self.dataset, self.method)):
            raise ConfigError(owner)
        gradient = self.build_method().meta_gradient
        if gradient.needs_queries and self.queries < 1:
            raise ConfigError(f"--queries is {self.queries}; it must be a whole number of at least 1")
        if isinstance(gradient, Displacement) and self.outer_optimizer == "sgd" and self.outer_lr > 1:
            raise ConfigError(f"--outer-lr is {self.outer_lr:g}; Reptile's outer step is a fraction from 0 to 1")

    @classmethod
    def of(cls, **settings: Any) -> Config:
        """A configuration from settings by their names on the command line; the others have their defaults.

        Args:
            settings: fields of this class, and options of the data set, of the network and of the method.

        Raises:
            ConfigError: a setting is unknown, of another type or out of range, or settings do not fit together.
        """
        dataset, method = settings.get("dataset", "omniglot"), settings.get("method", "maml")
        _check_known(dataset, method)
        parts = dict(zip(NESTED, all_options(dataset, method), strict=True))
        found: dict[str, Any] = {name: {n: o.default for n, o in part.items()} for name, part in parts.items()}
        for name, value in settings.items():
            if name in common_options():
                found[name] = common_options()[name].checked(value, least=LEAST.get(name, -math.inf))
                continue
            part = next((part for part, options in parts.items() if name in options), None)
            if part is None:
                raise ConfigError(elsewhere(name, dataset, method) or f"there is no setting {flag(name)}")
            found[part][name] = parts[part][name].checked(value, least=_least(part, parts[part][name]))
        return cls(**found)

    def override(self, **changes: Any) -> Config:
        """The same configuration with other settings, by their names on the command line.

        With another data set or method, their options take the place of those of the earlier one; an option that
        both have keeps its value.

        Raises:
            ConfigError: as for :meth:`of`.

        Example:
            >>> Config.of(inner_lr=0.1).override(method="reptile", tasks=5).method_settings["inner_lr"]
            0.1
        """
        kept = self.flat()
        if {"dataset", "method"} & changes.keys():
            dataset, method = changes.get("dataset", self.dataset), changes.get("method", self.method)
            _check_known(dataset, method)
            options = all_options(dataset, method)
            known = common_options().keys() | {name for part in options for name in part}
            kept = {name: value for name, value in kept.items() if name in known}
        return Config.of(**{**kept, **changes})

    def flat(self) -> dict[str, Any]:
        """All settings by their names on the command line."""
        fields = {name: getattr(self, name) for name in common_options()}
        return {**fields, **self.dataset_settings, **self.network_settings, **self.method_settings}

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values, which :meth:`from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Config:
        """The configuration that :meth:`as_json` wrote, also after a way through JSON.

        Raises:
            ConfigError: as for :meth:`of`.
            KeyError: one of the three mappings is absent.
        """
        nested = {name: value for part in NESTED for name, value in settings[part].items()}
        return cls.of(**{n: value for n, value in settings.items() if n not in NESTED}, **nested)

    @property
    def card(self) -> Card:
        """What the file of the method says of it."""
        return CARDS[self.method]

    @property
    def regression(self) -> bool:
        """Whether the tasks are of regression."""
        return DATASETS[self.dataset].kind == "regression"

    def build_method(self) -> Method:
        """The method with its settings, and with those of the task that it asks for.

        Raises:
            ConfigError: the method refuses them.
        """
        shared = {name: getattr(self, name) for name in _shared(self.method)}
        try:
            return METHODS[self.method](**self.method_settings, **shared)
        except ValueError as error:
            raise ConfigError(f"{self.method}: {error}") from error

    def _nested(self) -> dict[str, dict[str, Option]]:
        return dict(zip(NESTED, all_options(self.dataset, self.method), strict=True))


LEAST: dict[str, float] = {
    **dict.fromkeys(("shots", "test_queries", "tasks", "val_tasks", "val_every", "test_tasks", "joint_batch"), 1),
    **dict.fromkeys(("queries", "iterations", "statistics_tasks", "seed"), 0),
    "train_shots": 1,
    "train_ways": 2,
}
"""What numbers must not be under."""


@cache
def common_options() -> dict[str, Option]:
    """The settings that a configuration has for every data set and method."""
    hints = get_type_hints(Config)
    return {
        f.name: Option(f.name, hints[f.name], f.default) for f in dataclasses.fields(Config) if f.name not in NESTED
    }


def _check_known(dataset: str, method: str) -> None:
    for name, value, known in (("dataset", dataset, DATASETS), ("method", method, METHODS)):
        if value not in known:
            raise ConfigError(f"{flag(name)} is {value!r}; choose one of {', '.join(known)}")


def data_options(dataset: str) -> dict[str, Option]:
    """The options of a data set."""
    return options_of(DATASETS[dataset].open)


def network_name(dataset: str, method: str) -> str:
    """The network of a data set, as a method needs it: one of :data:`innerloop.nets.NETS`."""
    own, needed = DATASETS[dataset].network, CARDS[method].network
    return f"{own}_{needed}" if needed.startswith("with_") else needed or own


GIVEN_BY_THE_DATA = ("ways", "channels", "size", "inputs", "outputs")
"""Arguments of networks that follow from the tasks."""


def network_options(dataset: str, method: str) -> dict[str, Option]:
    """The options of a network: those of the data set's own, and those of what the method adds to it."""
    card = CARDS[method]
    own = card.network if card.network and not card.network.startswith("with_") else DATASETS[dataset].network
    options = options_of(NETS[own], without=GIVEN_BY_THE_DATA)
    if card.network_options:
        hints = get_type_hints(NETS[network_name(dataset, method)])
        options |= {
            name: Option(name, hints[extra.argument], extra.default, extra.help)
            for name, extra in card.network_options.items()
        }
    return options


def method_options(method: str) -> dict[str, Option]:
    """The options of a method, without those that a configuration has for all methods."""
    return options_of(METHODS[method], without=common_options().keys())


def _shared(method: str) -> list[str]:
    """The arguments of a method that a configuration has for all methods, such as the number of classes."""
    return [name for name in options_of(METHODS[method]) if name in common_options()]


@cache
def all_options(dataset: str, method: str) -> tuple[dict[str, Option], ...]:
    """The options of the data set, of the network and of the method; each name is there once."""
    parts = data_options(dataset), network_options(dataset, method), method_options(method)
    names = [*common_options(), *(name for part in parts for name in part)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(map(flag, twice))} of {method} on {dataset} would mean two settings; rename one")
    return parts


def _least(part: str, option: Option) -> float:
    """What the numbers of an option must not be under, as far as that is common to all."""
    if part == "network_settings":
        return 0 if isinstance(option.default, float) or option.type == float | None else 1
    # A whole number counts something; what else a method needs it says itself.
    return 0 if option.type in (int, int | None) else -math.inf


FORMS: dict[str, tuple[str, ...]] = {"train_ways": ("more_ways", "all_classes"), "joint_batch": ("all_classes",)}
"""What meta-training must be on for a setting to have a meaning, see :data:`innerloop.methods.base.TrainingTasks`."""


def elsewhere(name: str, dataset: str, method: str) -> str:
    """Whose option a name is, as an error, where it is none of this data set and method; empty if it is nobody's."""
    if CARDS[method].tasks not in (forms := FORMS.get(name, (CARDS[method].tasks,))):
        others = _titles(card for card in CARDS.values() if card.tasks in forms)
        return f"{flag(name)} belongs to {others}; the method here is {method}"
    if any(name in part for part in (common_options(), *all_options(dataset, method))):
        return ""
    own: Callable[[str], bool] = lambda other: name in method_options(other)  # noqa: E731
    if methods := [CARDS[other] for other in METHODS if own(other) or name in CARDS[other].network_options]:
        return f"{flag(name)} belongs to {_titles(methods)}; the method here is {method}"
    if datasets := [other for other in DATASETS if name in data_options(other)]:
        return f"{flag(name)} belongs to {', '.join(datasets)}; the data set here is {dataset}"
    if networks := sorted({data.network for n, data in DATASETS.items() if name in network_options(n, "maml")}):
        return f"{flag(name)} belongs to the network {', '.join(networks)}; here it is {network_name(dataset, method)}"
    return ""


def _titles(cards: Iterable[Card]) -> str:
    return ", ".join(card.title for card in cards)
