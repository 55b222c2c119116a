"""The record of a meta-learning method, and the registry of the named ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from innerloop.inner.adaptation import Adaptation
from innerloop.inner.meta import Meta
from innerloop.inner.selection import partition
from innerloop.metagrad import MetaGradient
from innerloop.params import Params
from innerloop.parts import Part
from innerloop.rules.base import RuleState

__all__ = ["METHODS", "Method", "Schedule", "registered"]

Make = TypeVar("Make", bound="Callable[..., Method]")


class Schedule(Protocol):
    """How a method changes over meta-training; a frozen dataclass, so that the method can be compared and saved."""

    def __call__(self, method: Method, iteration: int) -> Method:
        """The method at an iteration of the outer loop, counted from 0. It must go on learning the same quantities."""
        ...


@dataclass(frozen=True, repr=False)
class Method(Part):
    """A meta-learning method: how tasks are adapted to, and how to differentiate through it.

    Methods are values. They compare and hash by what they are made of, print as the composition that they are, and can
    be saved and restored (:mod:`innerloop.parts`).

    Args:
        adaptation: the inner loop of meta-training.
        meta_gradient: the estimator of the meta-gradient.
        test_adaptation: the inner loop on new tasks; papers often take more steps there. The same by default.
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


METHODS: dict[str, Callable[..., Method]] = {}
"""Every named method: the function that makes it, by name."""


def registered(make: Make) -> Make:
    """Enter a function that makes a method into :data:`METHODS`, under its own name."""
    METHODS[make.__name__] = make
    return make
