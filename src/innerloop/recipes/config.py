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
from innerloop.nets.own import OwnNetworkError, is_own, own_network
from innerloop.recipes.options import ConfigError, Option, flag, options_of
from innerloop.recipes.varied import VARIED, why_not_varied

__all__ = [
    "Config",
    "all_options",
    "base_network",
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
    """All settings that decide what a run computes. Each recipe is a configuration.

    Make one with :meth:`of`, and change one with :meth:`override`. Both take all settings by their names on the command
    line. They put the options of the data set, the network and the method into the three mappings, and fill in
    defaults.

    Raises:
        ConfigError: a setting is unknown, has another type or is out of range, or settings do not fit together.

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
    """Number of classes in a task. A range such as 3-8 lets meta-batches of meta-training draw from it."""
    shots: int = 1
    """Support examples of each class in validation and test. In regression: of each task. May be 1-5 or 1,5, as
    ways."""
    train_ways: int | None = None
    """Number of classes in a task of meta-training; as many as ways if not given. Joint training needs all classes."""
    train_shots: int | None = None
    """Support examples of each class in meta-training; as many as shots if not given."""
    varied_ways: tuple[int, ...] = ()
    """Numbers of classes that each meta-batch of meta-training draws from. The network has outputs for the most.
    --ways 3-8 sets them, too."""
    varied_shots: tuple[int, ...] = ()
    """Numbers of support examples that each meta-batch of meta-training draws from. --shots 1,5 sets them, too."""
    varied_queries: tuple[int, ...] = ()
    """Numbers of query examples that each meta-batch of meta-training draws from. --queries 5-15 sets them, too."""
    joint_batch: int = 64
    """Number of images in a mini-batch of joint training."""
    queries: int = 1
    """Query examples of each class in meta-training. In regression: of each task. May be 5-15, as ways."""
    test_queries: int = 1
    """Query examples of each class in validation and test. In regression: of each task."""

    # Network and method
    network: str | None = None
    """Network: conv4, resnet12, mlp, or a function of your own as package.module:function. The data set's own if not
    given."""
    network_settings: Settings = field(default_factory=dict)
    """Options of the network."""
    method: str = "maml"
    """Meta-learning method."""
    method_settings: Settings = field(default_factory=dict)
    """Options of the method."""
    norm: Literal["transductive", "inductive"] = "transductive"
    """Batch-norm statistics: of the whole query set (transductive), or of each query with the support set
    (inductive)."""

    # The outer loop
    iterations: int = 60_000
    """Number of outer updates."""
    tasks: int = 32
    """Number of tasks in a meta-batch."""
    outer_optimizer: Literal["adam", "sgd"] = "adam"
    """Outer optimizer. In Reptile, sgd takes the step theta + outer_lr * displacement."""
    outer_lr: float = 1e-3
    """Outer learning rate, beta."""
    outer_radius: float = 0.0
    """Sharpness-aware outer step: how far uphill the meta-gradient is taken; 0 for an ordinary step."""
    outer_schedule: Literal["constant", "linear", "cosine", "halving"] = "constant"
    """Schedule of the outer learning rate: constant, falling to zero (linear, cosine), or halved every 2000
    iterations."""

    # Protocol
    val_tasks: int = 200
    """Number of tasks in each validation."""
    val_every: int = 500
    """Number of iterations between validations."""
    test_tasks: int = 600
    """Number of tasks in an evaluation."""
    statistics_tasks: int = 0
    """Number of tasks for batch-norm statistics of each inner step, gathered after training, for 'evaluate --norm
    per_step'. 0 gathers none."""
    seed: int = 0
    """Seed of the initial weights and of all tasks."""

    def __post_init__(self) -> None:
        _check_known(self.dataset, self.method, self.network)
        for name, option in common_options().items():
            option.checked(getattr(self, name), least=LEAST.get(name, -math.inf))
        for part, options in self._nested().items():
            if (given := getattr(self, part)).keys() != options.keys():
                raise ConfigError(f"{part} has {', '.join(given) or 'nothing'}; expected: {', '.join(options) or 'no'}")
        if self.ways < 2 and not self.regression:
            raise ConfigError(f"--ways is {self.ways}; it must be a whole number of at least 2")
        if self.train_ways is not None and (owner := elsewhere("train_ways", *self.parts)):
            raise ConfigError(owner)
        method = self.build_method()
        for name in VARIED:
            if getattr(self, name) and (owner := elsewhere(name, *self.parts)):
                raise ConfigError(owner)
        if reason := why_not_varied(self, method):
            raise ConfigError(reason)
        gradient = method.meta_gradient
        if gradient.needs_queries and (fewest := min(self.varied_queries or (self.queries,))) < 1:
            raise ConfigError(f"--queries is {fewest}; it must be a whole number of at least 1")
        if isinstance(gradient, Displacement) and self.outer_optimizer == "sgd" and self.outer_lr > 1:
            raise ConfigError(f"--outer-lr is {self.outer_lr:g}; Reptile's outer step is a fraction from 0 to 1")

    @classmethod
    def of(cls, **settings: Any) -> Config:
        """Make a configuration from settings by their names on the command line. The others have their defaults.

        Args:
            settings: fields of this class, and options of the data set, of the network and of the method.

        Raises:
            ConfigError: a setting is unknown, has another type or is out of range, or settings do not fit together.
        """
        dataset, method = settings.get("dataset", "omniglot"), settings.get("method", "maml")
        network = settings.get("network")
        _check_known(dataset, method, network)
        parts = dict(zip(NESTED, all_options(dataset, method, network), strict=True))
        found: dict[str, Any] = {name: {n: o.default for n, o in part.items()} for name, part in parts.items()}
        for name, value in settings.items():
            if name in common_options():
                found[name] = common_options()[name].checked(value, least=LEAST.get(name, -math.inf))
                continue
            part = next((part for part, options in parts.items() if name in options), None)
            if part is None:
                raise ConfigError(elsewhere(name, dataset, method, network) or f"there is no setting {flag(name)}")
            found[part][name] = parts[part][name].checked(value, least=_least(part, parts[part][name]))
        return cls(**found)

    def override(self, **changes: Any) -> Config:
        """The same configuration with other settings, by their names on the command line.

        A change of the data set, the method or the network replaces their options. An option that the old and the new
        one both have keeps its value.

        Raises:
            ConfigError: as for :meth:`of`.

        Example:
            >>> Config.of(inner_lr=0.1).override(method="reptile", tasks=5).method_settings["inner_lr"]
            0.1
        """
        kept = self.flat()
        if {"dataset", "method", "network"} & changes.keys():
            dataset, method = changes.get("dataset", self.dataset), changes.get("method", self.method)
            network = changes.get("network", self.network)
            _check_known(dataset, method, network)
            options = all_options(dataset, method, network)
            known = common_options().keys() | {name for part in options for name in part}
            known -= {name for name, forms in FORMS.items() if CARDS[method].tasks not in forms}
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
        """Read the configuration that :meth:`as_json` wrote. It may have been saved as JSON.

        Raises:
            ConfigError: as for :meth:`of`.
            KeyError: one of the three mappings is absent.
        """
        nested = {name: value for part in NESTED for name, value in settings[part].items()}
        return cls.of(**{n: value for n, value in settings.items() if n not in NESTED}, **nested)

    @property
    def outputs(self) -> int:
        """The number of classes that the network tells apart."""
        return max(self.varied_ways or (self.train_ways or self.ways,))

    @property
    def drawn(self) -> dict[str, tuple[int, ...]]:
        """The numbers of classes, support and query examples that meta-batches of meta-training draw from."""
        return {
            **({} if self.regression else {"ways": self.varied_ways or (self.train_ways or self.ways,)}),
            "shots": self.varied_shots or (self.train_shots or self.shots,),
            "queries": self.varied_queries or (self.queries,),
        }

    @property
    def parts(self) -> tuple[str, str, str | None]:
        """The names of the data set, the method and the network, which decide what other options there are."""
        return self.dataset, self.method, self.network

    @property
    def card(self) -> Card:
        """The card of the method, from the method's own file."""
        return CARDS[self.method]

    @property
    def regression(self) -> bool:
        """Whether the tasks are regression tasks."""
        return DATASETS[self.dataset].kind == "regression"

    def build_method(self) -> Method:
        """Make the method from its settings, and from the settings of the task that it takes as arguments.

        Raises:
            ConfigError: the method refuses them.
        """
        shared = {name: getattr(self, name) for name in _shared(self.method)}
        try:
            return METHODS[self.method](**self.method_settings, **shared)
        except ValueError as error:
            raise ConfigError(f"{self.method}: {error}") from error

    def _nested(self) -> dict[str, dict[str, Option]]:
        return dict(zip(NESTED, all_options(*self.parts), strict=True))


LEAST: dict[str, float] = {
    **dict.fromkeys(("shots", "test_queries", "tasks", "val_tasks", "val_every", "test_tasks", "joint_batch"), 1),
    **dict.fromkeys(("queries", "iterations", "statistics_tasks", "seed", "outer_radius"), 0),
    "train_shots": 1,
    "train_ways": 2,
    "varied_ways": 2,
    "varied_shots": 1,
    "varied_queries": 0,
}
"""The lowest number allowed for each setting."""


@cache
def common_options() -> dict[str, Option]:
    """The settings that do not depend on the data set or the method."""
    hints = get_type_hints(Config)
    return {
        f.name: Option(f.name, hints[f.name], f.default) for f in dataclasses.fields(Config) if f.name not in NESTED
    }


def _check_known(dataset: str, method: str, network: str | None) -> None:
    for name, value, known in (("dataset", dataset, DATASETS), ("method", method, METHODS)):
        if value not in known:
            raise ConfigError(f"{flag(name)} is {value!r}; choose one of {', '.join(known)}")
    if network is None:
        return
    if not is_own(network) and network not in OWN_NETWORKS:
        raise ConfigError(f"--network is {network!r}; choose {', '.join(OWN_NETWORKS)}, or package.module:function")
    if network_name(dataset, method, network) not in NETS and not (is_own(network) and not CARDS[method].network):
        raise ConfigError(
            f"--network is {network}; {CARDS[method].title} needs a network of its own kind "
            f"({CARDS[method].network}), which is there for conv4 and mlp"
        )


OWN_NETWORKS = ("conv4", "resnet12", "mlp")
"""The networks of this package that ``--network`` can name."""


def data_options(dataset: str) -> dict[str, Option]:
    """The options of a data set."""
    return options_of(DATASETS[dataset].open)


def network_name(dataset: str, method: str, network: str | None = None) -> str:
    """The name of the network for a data set and a method: in :data:`innerloop.nets.NETS`, or a user's own."""
    own, needed = network or DATASETS[dataset].network, CARDS[method].network
    return f"{own}_{needed}" if needed.startswith("with_") else needed or own


GIVEN_BY_THE_DATA = ("ways", "channels", "size", "inputs", "outputs")
"""Arguments of networks that follow from the tasks."""


def base_network(dataset: str, method: str, network: str | None = None) -> str:
    """The name of the network without the layers that the method adds."""
    needed = CARDS[method].network
    return needed if needed and not needed.startswith("with_") else network or DATASETS[dataset].network


def network_options(dataset: str, method: str, network: str | None = None) -> dict[str, Option]:
    """The options of a network: those of the network itself, and those of the layers that the method adds."""
    card, own = CARDS[method], base_network(dataset, method, network)
    try:
        make = own_network(own) if is_own(own) else NETS[own]
    except OwnNetworkError as error:
        raise ConfigError(str(error)) from error
    options = options_of(make, without=GIVEN_BY_THE_DATA)
    if card.network_options:
        hints = get_type_hints(NETS[network_name(dataset, method, network)])
        options |= {
            name: Option(name, hints[extra.argument], extra.default, extra.help)
            for name, extra in card.network_options.items()
        }
    return options


def method_options(method: str) -> dict[str, Option]:
    """The options of a method, without the settings that all methods share."""
    return options_of(METHODS[method], without=common_options().keys())


def _shared(method: str) -> list[str]:
    """The arguments of a method that are settings of every configuration, such as the number of classes."""
    return [name for name in options_of(METHODS[method]) if name in common_options()]


@cache
def all_options(dataset: str, method: str, network: str | None = None) -> tuple[dict[str, Option], ...]:
    """The options of the data set, of the network and of the method. Raise if a name occurs twice."""
    parts = data_options(dataset), network_options(dataset, method, network), method_options(method)
    names = [*common_options(), *(name for part in parts for name in part)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(map(flag, twice))} of {method} on {dataset} would mean two settings; rename one")
    return parts


def _least(part: str, option: Option) -> float:
    """The lowest number allowed for an option, as far as this does not depend on the method."""
    if part == "network_settings":
        return 0 if isinstance(option.default, float) or option.type == float | None else 1
    # A whole number counts something. The method itself checks any further bounds.
    return 0 if option.type in (int, int | None) else -math.inf


FORMS: dict[str, tuple[str, ...]] = {
    "train_ways": ("more_ways", "all_classes"),
    "joint_batch": ("all_classes",),
    **dict.fromkeys(VARIED, ("episodes", "more_ways")),
}
"""The kinds of training tasks for which a setting has a meaning, see
:data:`innerloop.methods.base.TrainingTasks`."""


def elsewhere(name: str, dataset: str, method: str, network: str | None = None) -> str:
    """An error message that says whose option a name is.

    It is empty if this data set and method have the option, or if nobody has it.
    """
    if CARDS[method].tasks not in (forms := FORMS.get(name, (CARDS[method].tasks,))):
        others = _titles(card for card in CARDS.values() if card.tasks in forms)
        return f"{flag(name)} belongs to {others}; the method here is {method}"
    if any(name in part for part in (common_options(), *all_options(dataset, method, network))):
        return ""
    own: Callable[[str], bool] = lambda other: name in method_options(other)  # noqa: E731
    if methods := [CARDS[other] for other in METHODS if own(other) or name in CARDS[other].network_options]:
        return f"{flag(name)} belongs to {_titles(methods)}; the method here is {method}"
    if datasets := [other for other in DATASETS if name in data_options(other)]:
        return f"{flag(name)} belongs to {', '.join(datasets)}; the data set here is {dataset}"
    if networks := sorted({data.network for n, data in DATASETS.items() if name in network_options(n, "maml")}):
        here = network_name(dataset, method, network)
        return f"{flag(name)} belongs to the network {', '.join(networks)}; here it is {here}"
    return ""


def _titles(cards: Iterable[Card]) -> str:
    return ", ".join(card.title for card in cards)
