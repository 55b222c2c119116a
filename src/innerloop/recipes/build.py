"""Make the objects that a configuration describes: tasks, network and trainer."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from innerloop.data import DATASETS, Location, varying
from innerloop.data.base import Plan, Split
from innerloop.display import first_few
from innerloop.engine.precision import Precision
from innerloop.episode import EpisodeSampler
from innerloop.inner.losses import LOSSES
from innerloop.nets import NETS
from innerloop.nets.own import is_own, made_by_own, own_network
from innerloop.recipes.config import Config, base_network, network_name
from innerloop.recipes.options import ConfigError
from innerloop.recipes.schedules import SCHEDULES
from innerloop.training.sharpness import SharpnessAware
from innerloop.training.trainer import MetaTrainer, Validation

__all__ = ["EVALUATION_BATCH", "DataSource", "Running", "check_net", "make_net", "make_trainer", "net_spec"]

_log = logging.getLogger(__name__)

EVALUATION_BATCH = 20
"""The number of tasks that validation and test draw at a time. The tasks that a seed gives depend on it."""


@dataclass(frozen=True)
class DataSource(Location):
    """The data of a run, and the samplers for a configuration.

    Args:
        root: as for ``Location``.
        device: as for ``Location``.
        download: as for ``Location``.
        progress: as for ``Location``.
        plan: what was decided about a user's own data; None for the data sets of the papers.
    """

    plan: Plan | None = None

    def planned(self, config: Config) -> DataSource:
        """The same source with a plan, if the data set is a user's own and there is no plan yet.

        Raises:
            DataError: the data is absent, or is not as the options say.
        """
        dataset = DATASETS[config.dataset]
        if not dataset.planned or self.plan is not None:
            return self
        return replace(self, plan=dataset.open(self, **config.dataset_settings))

    def training(self, config: Config) -> EpisodeSampler:
        """The sampler of meta-training."""
        if config.card.tasks == "all_classes":
            source = self._open(config, "train")
            if not hasattr(source, "batches"):
                raise ConfigError(f"{config.method} trains a classifier, and {config.dataset} has no mini-batches")
            batches = source.batches(config.joint_batch, config.tasks)
            if batches.classes != config.train_ways:
                raise ConfigError(
                    f"--train-ways is {config.train_ways}; fine-tuning begins with a classifier of all classes of "
                    f"{config.dataset}, including turned ones: {batches.classes}"
                )
            sampler: EpisodeSampler = batches
            return sampler
        return self._sampler(config, "train", config.drawn, config.tasks)

    def evaluation(self, config: Config, split: Split) -> EpisodeSampler:
        """The sampler of validation or test."""
        counts = {"shots": (config.shots,), "queries": (config.test_queries,)}
        counts |= {} if config.regression else {"ways": (config.ways,)}
        return self._sampler(config, split, counts, EVALUATION_BATCH)

    def validation(self, config: Config) -> Validation:
        """The validation of a run.

        If the data set has no classes for validation, training classes are used and the best learner is not kept.
        """
        plan, dataset = self.plan, DATASETS[config.dataset]
        held_out = dataset.held_out(**config.dataset_settings) if plan is None else plan.held_out
        sampler = self.evaluation(config, "val" if held_out else "train")
        return Validation(sampler, config.val_tasks, config.val_every, keep_best=held_out)

    def _sampler(
        self, config: Config, split: Split, counts: Mapping[str, tuple[int, ...]], tasks: int
    ) -> EpisodeSampler:
        """The sampler of tasks. Each count is one number, or those that meta-batches draw from."""
        source = self._open(config, split)
        try:
            if config.dataset_settings.get("small_classes") == "skip":
                source = _large_enough(source, max(counts["shots"]) + max(counts["queries"]), split)
            if all(len(numbers) == 1 for numbers in counts.values()):
                sampler: EpisodeSampler = source.episodes(**{n: of[0] for n, of in counts.items()}, tasks=tasks)
                return sampler
            varied: dict[str, Any] = {name: list(numbers) for name, numbers in counts.items()}
            return varying(source, **varied, tasks=tasks)
        except ValueError as error:
            raise ConfigError(f"{split} tasks of {config.dataset}: {error}") from error

    def _open(self, config: Config, split: Split) -> Any:
        if self.plan is not None:
            return self.plan.open(split, self)
        return DATASETS[config.dataset].open(split, self, **config.dataset_settings)


def _large_enough(source: Any, examples: int, split: Split) -> Any:
    """The source without the classes or tasks that have too few examples. A warning names them."""
    kept = source.at_least(examples)
    if left_out := [name for name in source.names if name not in set(kept.names)]:
        _log.warning(
            "%d of %d for %s have fewer than %d examples and are left out: %s",
            *(len(left_out), len(source.names), split, examples, first_few(left_out)),
        )
    return kept


def net_spec(config: Config, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The network as one of :data:`innerloop.nets.NETS`, or a user's own, and its arguments.

    Args:
        config: the configuration.
        shape: the shape of an input, ``(channels, height, width)`` or ``(features,)``. None leaves what follows from it
            at the network's defaults, which are for the data sets of the papers.
    """
    extra = config.card.network_options
    name = network_name(*config.parts)
    ways = config.outputs
    given: dict[str, Any] = {} if config.regression else {"ways": ways}
    if shape is not None and len(shape) == 3:
        given |= {"channels": shape[0], "size": shape[1]}
    elif shape is not None:
        given |= {"inputs": shape[0], "outputs": 1 if config.regression else ways}
    if shape is not None:
        takes = _takes(config)
        given = {argument: value for argument, value in given.items() if takes(argument)}
    for option, value in config.network_settings.items():
        argument = extra[option].argument if option in extra else option
        given[argument] = list(value) if isinstance(value, tuple) else value
    return {"name": name, "arguments": given}


def _takes(config: Config) -> Callable[[str], bool]:
    """Whether the network takes an argument that the data gives."""
    base, name = base_network(*config.parts), network_name(*config.parts)
    parameters = inspect.signature(own_network(base) if is_own(base) else NETS[base]).parameters
    # An argument of this name may mean something else where the method adds layers, as the size of a context does.
    hidden = set() if name == base else set(inspect.signature(NETS[name]).parameters)
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return lambda argument: argument not in hidden and (anything or argument in parameters)


def make_net(spec: Mapping[str, Any]) -> nn.Module:
    """Make the network that :func:`net_spec` describes.

    Raises:
        ConfigError: it cannot be made with these arguments.
    """
    try:
        if is_own(spec["name"]):
            return made_by_own(spec["name"], spec["arguments"])
        return NETS[spec["name"]](**spec["arguments"])
    except ValueError as error:
        raise ConfigError(f"--network: {error}") from error


def check_net(net: nn.Module, shape: tuple[int, ...], outputs: int) -> None:
    """Raise ``ConfigError`` unless a network maps two inputs of this shape to ``[2, outputs]``."""
    tried = copy.deepcopy(net).eval()
    device = next((parameter.device for parameter in tried.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            found = tried(torch.zeros(2, *shape, device=device))
    except Exception as error:  # whatever a module may raise
        raise ConfigError(
            f"--network: {type(net).__name__} fails on inputs [2, {str(shape)[1:-1]}]: {error}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.shape != (2, outputs):
        got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ConfigError(
            f"--network: {type(net).__name__} maps two inputs {list(shape)} to {got}, and the tasks need [2, {outputs}]"
        )


@dataclass(frozen=True)
class Running:
    """How a run is computed. This affects only its speed and its rounding."""

    execution: Literal["auto", "serial", "batched", "fastest"] | int = "auto"
    """How tasks run: serial, batched, or a number of tasks at a time. auto decides by sizes, fastest by timing."""
    precision: Precision = "full"
    """full, tf32 (products of NVIDIA GPUs), or bf16 (forward pass)."""
    compile: bool = False
    """Compile meta-gradients. This takes minutes, and is for GPUs and small networks."""


def make_trainer(config: Config, net: nn.Module, running: Running = Running()) -> MetaTrainer:
    """The trainer of a run.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    optimizers: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
        "adam": partial(torch.optim.Adam, lr=config.outer_lr),
        "sgd": partial(torch.optim.SGD, lr=config.outer_lr),
    }

    make = optimizers[config.outer_optimizer]
    if config.outer_radius:
        make = partial(SharpnessAware, base=make, radius=config.outer_radius)

    def scheduler(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, partial(SCHEDULES[config.outer_schedule], iterations=config.iterations))

    method = config.build_method()
    if config.iterations and not method.learns:
        raise ConfigError(
            f"--iterations is {config.iterations}; {config.method} learns nothing from other tasks: it must be 0"
        )
    try:
        return MetaTrainer(
            net,
            method,
            make,
            scheduler=scheduler,
            loss_fn=LOSSES["mse" if config.regression else "cross_entropy"],
            norm=config.norm,
            execution=running.execution,
            precision=running.precision,
            compile=running.compile,
            seed=config.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
