"""Who takes part: innerloop, in one way or several, and every peer that is there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from innerloop.bench.peers import PEERS, MetaGradientFn, Spec, Unavailable
from innerloop.engine.engine import Engine, meta_gradient
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
"""The name that innerloop has beside its peers."""

ONE_OFF = "one-off"
"""The way of innerloop that makes a new engine for each call, as :func:`innerloop.meta_gradient` does."""

ESTIMATORS = {"checkpointed": checkpointed, "mixed_mode": mixed_mode}
"""The exact meta-gradients that need less memory."""


class Ours:
    """The meta-gradient by innerloop, its engine built once as :class:`innerloop.MetaTrainer` does."""

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
        """Call it until it takes no longer than it will from then on."""
        self._engine.warm_up(lambda: self(episode))


class OneOff:
    """The meta-gradient by :func:`innerloop.meta_gradient`, which makes a new engine each time."""

    def __init__(self, net: nn.Module, spec: Spec) -> None:
        self._net, self._method = net, method_of(spec)

    def __call__(self, episode: Episode) -> Params:
        """The mean meta-gradient of the tasks."""
        return meta_gradient(self._net, self._method, episode)[0]


def warmed_up(contender: MetaGradientFn, episode: Episode) -> MetaGradientFn:
    """The contender, its first call or calls made."""
    if isinstance(contender, Ours):
        contender.warm_up(episode)
    else:
        contender(episode)
    return contender


def method_of(spec: Spec) -> Method:
    """The method as innerloop has it. Reptile's inner optimizer is gradient descent here, which every peer has."""
    if spec.what == "reptile":
        return reptile(spec.inner_lr, spec.steps, inner_batch=None, inner_optimizer="sgd")
    return (maml if spec.what == "maml" else fomaml)(spec.inner_lr, spec.steps)


def names_of(ways: Sequence[Execution | str], *, peers: bool = True) -> list[str]:
    """Every contender, whether or not it is installed: innerloop, the peers, innerloop's further ways."""
    return [OURS, *(PEERS if peers else ()), *(f"{OURS} {way}" for way in ways)]


def contender(name: str, net: nn.Module, spec: Spec) -> MetaGradientFn:
    """One contender, with its own copy of the network.

    Raises:
        ImportError: it is not installed.
        Unavailable: it has no means to compute this.
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
    """Every contender by name, innerloop first, each with its own copy of the network; and why others are missing."""
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
