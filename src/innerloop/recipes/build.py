"""Make the objects that a configuration describes: tasks, network and trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from innerloop.data import DATASETS, Location
from innerloop.data.base import Split
from innerloop.engine.precision import Precision
from innerloop.episode import EpisodeSampler
from innerloop.inner.losses import LOSSES
from innerloop.recipes.config import Config, network_name
from innerloop.recipes.options import ConfigError
from innerloop.recipes.schedules import SCHEDULES
from innerloop.training.sharpness import SharpnessAware
from innerloop.training.trainer import MetaTrainer, Validation

__all__ = ["EVALUATION_BATCH", "DataSource", "Running", "make_trainer", "net_spec"]

EVALUATION_BATCH = 20
"""The number of tasks that validation and test draw at a time. The tasks that a seed gives depend on it."""


@dataclass(frozen=True)
class DataSource(Location):
    """The data of a run, and the samplers for a configuration. The arguments are those of ``Location``."""

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
        ways, shots = config.train_ways or config.ways, config.train_shots or config.shots
        return self._sampler(config, "train", (ways, shots, config.queries, config.tasks))

    def evaluation(self, config: Config, split: Split) -> EpisodeSampler:
        """The sampler of validation or test."""
        return self._sampler(config, split, (config.ways, config.shots, config.test_queries, EVALUATION_BATCH))

    def validation(self, config: Config) -> Validation:
        """The validation of a run.

        If the data set has no classes for validation, training classes are used and the best learner is not kept.
        """
        held_out = DATASETS[config.dataset].held_out(**config.dataset_settings)
        sampler = self.evaluation(config, "val" if held_out else "train")
        return Validation(sampler, config.val_tasks, config.val_every, keep_best=held_out)

    def _sampler(self, config: Config, split: Split, counts: tuple[int, int, int, int]) -> EpisodeSampler:
        """The sampler of tasks. ``counts`` are the ways, the shots, the queries and the tasks drawn at a time."""
        source = self._open(config, split)
        try:
            sampler: EpisodeSampler = source.episodes(*(counts[1:] if config.regression else counts))
        except ValueError as error:
            raise ConfigError(f"{split} tasks of {config.dataset}: {error}") from error
        return sampler

    def _open(self, config: Config, split: Split) -> Any:
        return DATASETS[config.dataset].open(split, self, **config.dataset_settings)


def net_spec(config: Config) -> dict[str, Any]:
    """The network as one of :data:`innerloop.nets.NETS` and its arguments."""
    extra = config.card.network_options
    arguments: dict[str, Any] = {} if config.regression else {"ways": config.train_ways or config.ways}
    for name, value in config.network_settings.items():
        arguments[extra[name].argument if name in extra else name] = list(value) if isinstance(value, tuple) else value
    return {"name": network_name(config.dataset, config.method), "arguments": arguments}


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
