"""The record of a meta-learning method, and the registry of the named ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec

from innerloop.inner.adaptation import Adaptation
from innerloop.metagrad import MetaGradient, untrained

__all__ = ["METHODS", "Method", "registered"]

P = ParamSpec("P")


@dataclass(frozen=True)
class Method:
    """A meta-learning method: how tasks are adapted to, and how to differentiate through it.

    Args:
        adaptation: the inner loop of meta-training.
        meta_gradient: the estimator of the meta-gradient.
        test_adaptation: the inner loop on new tasks; papers often take more steps there. The same by default.
        anneal: ``(method, iteration) -> method``, for a method that changes over meta-training: what it is at an
            iteration of the outer loop, counted from 0. It must go on learning the same quantities.

    Attributes:
        name: the name it is registered under; empty for a composition of your own, also for one that
            ``dataclasses.replace`` made of a registered one.
        arguments: what the registered function was called with.

    Example:
        A method of your own is a composition:

        >>> import innerloop as il
        >>> adaptation = il.Adaptation(il.rules.adam(0.01), steps=3, adapt="head.*")
        >>> method = Method(adaptation, il.first_order())
        >>> method.test.steps
        3
    """

    adaptation: Adaptation
    meta_gradient: MetaGradient
    test_adaptation: Adaptation | None = None
    anneal: Callable[[Method, int], Method] | None = None
    name: str = field(default="", init=False)
    arguments: Mapping[str, Any] = field(default_factory=dict, init=False)

    @property
    def test(self) -> Adaptation:
        """The inner loop on new tasks."""
        return self.test_adaptation or self.adaptation

    @property
    def learns(self) -> bool:
        """Whether meta-training changes anything; not so where the meta-gradient is :func:`innerloop.untrained`."""
        return self.meta_gradient is not untrained()

    def at(self, iteration: int) -> Method:
        """The method as it is at an iteration of the outer loop, which :class:`innerloop.MetaTrainer` asks for.

        A function of the iteration's number only, so that a resumed run goes on as it would have.
        """
        return self if self.anneal is None else self.anneal(self, iteration)


METHODS: dict[str, Callable[..., Method]] = {}
"""Every named method: the function that makes it, by name."""


def registered(make: Callable[P, Method]) -> Callable[P, Method]:
    """Enter a function that makes a method into :data:`METHODS`, and have what it makes remember its arguments."""
    signature = inspect.signature(make)

    @functools.wraps(make)
    def recorded(*args: P.args, **kwargs: P.kwargs) -> Method:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        method = make(*args, **kwargs)
        object.__setattr__(method, "name", make.__name__)
        object.__setattr__(method, "arguments", dict(bound.arguments))
        return method

    METHODS[make.__name__] = recorded
    return recorded
