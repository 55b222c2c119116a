"""The record of a meta-learning method, and the registry of the named ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.meta import Meta
from innerloop.inner.selection import partition
from innerloop.metagrad import MetaGradient
from innerloop.params import Params
from innerloop.parts import Part
from innerloop.rules.base import RuleState

__all__ = ["CARDS", "METHODS", "Card", "Method", "NetworkOption", "Schedule", "TrainingTasks", "registered"]

Make = TypeVar("Make", bound="Callable[..., Method]")


class Schedule(Protocol):
    """How a method changes over meta-training. Use a frozen dataclass, so that the method can be compared and saved."""

    def __call__(self, method: Method, iteration: int) -> Method:
        """The method at an iteration of the outer loop, counted from 0. It must go on learning the same quantities."""
        ...


@dataclass(frozen=True, repr=False)
class Method(Part):
    """A meta-learning method: an inner loop, and a way to differentiate through it.

    Methods are values. They compare and hash by their parts, print as a composition of these parts, and can be saved
    and restored (:mod:`innerloop.parts`).

    Args:
        adaptation: the inner loop of meta-training.
        meta_gradient: the estimator of the meta-gradient.
        test_adaptation: the inner loop on new tasks, where papers often take more steps. By default it is the same.
        schedule: how the method changes over meta-training, if it does.

    Example:
        A method of your own is a composition:

        >>> import innerloop as il
        >>> adaptation = il.Adaptation(il.rules.adam(0.01), steps=3, adapt="head.*")
        >>> method = Method(adaptation, il.first_order())
        >>> method.test.steps, method.meta_gradient
        (3, FirstOrder())
        >>> il.maml(0.1) == Method(il.Adaptation(il.rules.sgd(0.1), steps=1), il.unrolled())
        True
    """

    adaptation: Adaptation
    meta_gradient: MetaGradient
    test_adaptation: Adaptation | None = None
    schedule: Schedule | None = None

    @property
    def test(self) -> Adaptation:
        """The inner loop on new tasks."""
        return self.test_adaptation or self.adaptation

    @property
    def learns(self) -> bool:
        """Whether meta-training changes anything; not so where the meta-gradient is :func:`innerloop.untrained`."""
        return self.meta_gradient.learns

    def at(self, iteration: int) -> Method:
        """The method as it is at an iteration of the outer loop, which :class:`innerloop.MetaTrainer` asks for.

        A function of the iteration's number only, so that a resumed run goes on as it would have.
        """
        return self if self.schedule is None else self.schedule(self, iteration)

    def meta(
        self,
        model_params: Mapping[str, Tensor],
        given: Mapping[str, Tensor] | None = None,
        *,
        state: RuleState | None = None,
        statistics: Params | None = None,
    ) -> Meta:
        """The meta-parameters of this method for a model: the model's own, and what the method learns.

        A rule learns something about the parameters that are adapted, in meta-training or on new tasks, and no others.

        Args:
            model_params: the model's trainable parameters by name.
            given: the values of all meta-parameters in one dictionary, if they are known; else they are as before
                meta-training.
            state: the rule's state carried over from earlier meta-batches.
            statistics: batch-norm statistics for each inner step.

        Raises:
            ValueError: a name is unknown or absent, or the patterns of what is adapted do not fit the model.

        Example:
            >>> import torch, innerloop as il
            >>> il.meta_sgd().meta(dict(torch.nn.Linear(3, 2).named_parameters())).named().keys()
            dict_keys(['weight', 'bias', 'method.lr.weight', 'method.lr.bias'])
        """
        both = (self.adaptation, self.test)
        adapted = {name for adaptation in both for name in partition(model_params, adaptation.adapt)[0]}
        learned = self.adaptation.rule.learned({name: p for name, p in model_params.items() if name in adapted})
        initial = Meta(dict(model_params), learned, state, statistics)
        if given is None:
            return initial
        names = initial.named().keys()
        if given.keys() != names:
            unknown, absent = sorted(given.keys() - names), sorted(names - given.keys())
            raise ValueError(
                f"meta_params must hold {', '.join(names)}; unknown: {unknown or 'none'}, absent: {absent or 'none'}"
            )
        return Meta.of(given, state, statistics)


TrainingTasks = Literal["episodes", "more_ways", "all_classes"]
"""What a method is meta-trained on: episodes as in test, episodes of another number of classes, or mini-batches with
the labels of all classes, as an ordinary classifier is trained."""


@dataclass(frozen=True)
class NetworkOption:
    """A setting of a method that is an argument of its network.

    Args:
        argument: the name of the argument in the function that makes the network.
        default: the value in recipes that do not give one.
        help: the text that explains it.
    """

    argument: str
    default: Any
    help: str


@dataclass(frozen=True)
class Card:
    """The data in a method's file beside the function that makes it. Recipes are made from it.

    Args:
        name: the name under which the method is registered.
        title: its name in prose, such as ``MAML++``.
        network: the network that it needs, by its name in ``innerloop.nets.NETS``. A name that begins with ``with_`` is
            a variant of the data set's own network: for images, ``with_context`` is ``conv4_with_context``. Empty means
            the data set's own network.
        network_options: the settings that are arguments of that network, by their names in a recipe.
        tasks: the kind of tasks that it is meta-trained on.
        like: the method whose recipes its own are based on. Settings that ``recipes`` does not give are taken from
            there, if this method has them.
        recipes: the settings of each recipe, by the name of its experiment in ``innerloop.recipes``, such as
            ``omniglot-5w1s``. A key may name several experiments, separated by spaces. If an experiment is in several
            keys, the later ones win.
    """

    name: str
    title: str
    network: str = ""
    network_options: Mapping[str, NetworkOption] = field(default_factory=dict)
    tasks: TrainingTasks = "episodes"
    like: str = ""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings of each recipe, by a single experiment."""
        merged: dict[str, dict[str, Any]] = {}
        for experiments, settings in self.recipes.items():
            for experiment in experiments.split():
                merged[experiment] = {**merged.get(experiment, {}), **settings}
        return merged


METHODS: dict[str, Callable[..., Method]] = {}
"""Every named method: the function that makes it, by name."""

CARDS: dict[str, Card] = {}
"""What the file of each named method says of it, by the same names."""


def registered(
    *,
    title: str,
    network: str = "",
    network_options: Mapping[str, NetworkOption] | None = None,
    tasks: TrainingTasks = "episodes",
    like: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[[Make], Make]:
    """Register a function that makes a method in :data:`METHODS`, under its own name, and its card in :data:`CARDS`.

    The arguments are those of :class:`Card`. Everything that the package knows about a method is in its file: the card,
    the signature and the docstring. The command line takes the options and their help from the signature and the
    ``Args`` section. The documentation page is made from the docstring.

    Raises:
        ValueError: there is already a method of that name.

    Example:
        >>> CARDS["maml_plus_plus"].title, CARDS["cavia"].network
        ('MAML++', 'with_context')
    """

    def enter(make: Make) -> Make:
        name = make.__name__
        if name in METHODS:
            raise ValueError(f"there is a method {name!r} already; give the function another name")
        METHODS[name] = make
        CARDS[name] = Card(name, title, network, network_options or {}, tasks, like, recipes or {})
        return make

    return enter
