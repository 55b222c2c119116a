"""The contenders: innerloop, in one configuration or several, and every peer that is installed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from innerloop.bench.peers import PEERS, MetaGradientFn, Spec, Unavailable
from innerloop.engine.engine import Engine
from innerloop.engine.functions import meta_gradient
from innerloop.engine.plans import Execution
from innerloop.episode import Episode
from innerloop.metagrad import MetaGradient, checkpointed, mixed_mode
from innerloop.methods import fomaml, maml, reptile
from innerloop.methods.base import Method
from innerloop.params import Params

__all__ = [
    "ONE_OFF",
    "OURS",
    "OneOff",
    "Ours",
    "contender",
    "contenders_of",
    "method_of",
    "missing_peers",
    "names_of",
    "warmed_up",
]

OURS = "innerloop"
"""The name of innerloop among the contenders."""

ONE_OFF = "one-off"
"""The configuration that makes a new engine for each call, as :func:`innerloop.meta_gradient` does."""

ESTIMATORS = {"checkpointed": checkpointed, "mixed_mode": mixed_mode}
"""The estimators of the exact meta-gradient that need less memory."""


class Ours:
    """The meta-gradient by innerloop with one engine for all calls, as in :class:`innerloop.MetaTrainer`."""

    def __init__(
        self, net: nn.Module, spec: Spec, execution: Execution = "auto", estimator: MetaGradient | None = None
    ) -> None:
        self._engine, self._method = Engine(net, execution=execution), method_of(spec)
        if estimator is not None:
            self._method = replace(self._method, meta_gradient=estimator)

    def __call__(self, episode: Episode) -> Params:
        """The mean meta-gradient of the tasks."""
        return self._engine.meta_gradient(self._method, episode)[0]

    def warm_up(self, episode: Episode) -> None:
        """Call it until it is as fast as all later calls."""
        self._engine.warm_up(lambda: self(episode))


class OneOff:
    """The meta-gradient by :func:`innerloop.meta_gradient`, which makes a new engine for each call."""

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        self._net, self._method = net, method_of(spec)

    def __call__(self, episode: Episode) -> Params:
        """The mean meta-gradient of the tasks."""
        return meta_gradient(self._net, self._method, episode)[0]


def warmed_up(contender: MetaGradientFn, episode: Episode) -> MetaGradientFn:
    """Make the contender's first calls, which are slower than later ones, and return it."""
    if isinstance(contender, Ours):
        contender.warm_up(episode)
    else:
        contender(episode)
    return contender


def method_of(spec: Spec) -> Method:
    """The method in innerloop. Reptile's inner optimizer is gradient descent here, because every peer has that."""
    if spec.what == "reptile":
        return reptile(spec.inner_lr, spec.steps, inner_batch=None, inner_optimizer="sgd")
    return (maml if spec.what == "maml" else fomaml)(spec.inner_lr, spec.steps)


def names_of(ways: Sequence[Execution | str], *, peers: bool = True) -> list[str]:
    """The names of all contenders, installed or not: innerloop, the peers, innerloop's further configurations."""
    return [OURS, *(PEERS if peers else ()), *(f"{OURS} {way}" for way in ways)]


def contender(name: str, net: nn.Module, spec: Spec) -> MetaGradientFn:
    """Make one contender, with its own copy of the network.

    Raises:
        ImportError: it is not installed.
        Unavailable: it cannot compute this.
    """
    net = copy.deepcopy(net)
    if name in PEERS:
        return PEERS[name](net, spec)
    way = name.removeprefix(OURS).strip() or "auto"
    if way == ONE_OFF:
        return OneOff(net, spec)
    if way in ESTIMATORS:
        return Ours(net, spec, estimator=ESTIMATORS[way]())
    if way.isdecimal():
        return Ours(net, spec, int(way))
    return Ours(net, spec, "serial" if way == "serial" else "batched" if way == "batched" else "auto")


def contenders_of(
    net: nn.Module, spec: Spec, ways: Sequence[Execution | str] = (), *, peers: bool = True
) -> tuple[dict[str, MetaGradientFn], dict[str, str]]:
    """All contenders by name, innerloop first, and the reasons why others are missing.

    Each has its own copy of the network.
    """
    contenders, missing = {}, {}
    for name in names_of(ways, peers=peers):
        try:
            contenders[name] = contender(name, net, spec)
        except (ImportError, Unavailable) as error:
            missing[name] = " ".join(str(error).split())
    return contenders, missing


def missing_peers(spec: Spec) -> dict[str, str]:
    """The peers that cannot take part, and why."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    return contenders_of(net, spec)[1]
