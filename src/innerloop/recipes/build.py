"""From a configuration to the objects that it describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from innerloop.data import ImageClasses, glyphs, omniglot, sinusoids
from innerloop.engine.precision import Precision
from innerloop.episode import EpisodeSampler
from innerloop.inner.losses import LOSSES
from innerloop.methods.base import METHODS, Method
from innerloop.recipes.config import Config, ConfigError
from innerloop.recipes.schedules import SCHEDULES
from innerloop.training.trainer import MetaTrainer, Validation

__all__ = ["EVALUATION_BATCH", "DataSource", "make_method", "make_trainer", "net_spec"]

EVALUATION_BATCH = 20
"""Tasks that validation and test draw at a time. The tasks that a seed gives depend on it."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class DataSource:
    """Where the data of a run is, and where it is to be used.

    Args:
        root: folder of the data; None for the default places.
        device: where images are kept and tasks are drawn.
        download: whether what is absent may be fetched.
        progress: whether to show progress bars; None shows them on a terminal.
    """

    root: Path | None = None
    device: str = "cpu"
    download: bool = False
    progress: bool | None = None

    def training(self, config: Config) -> EpisodeSampler:
        """The sampler of meta-training."""
        if config.method == "finetune":
            batches = self._classes(config, "train").batches(config.joint_batch, config.tasks)
            if batches.classes != config.train_ways:
                raise ConfigError(
                    f"--train-ways is {config.train_ways}; fine-tuning begins with a classifier of all classes of "
                    f"{config.dataset}, turned ones included: {batches.classes}"
                )
            return batches
        config = replace(config, ways=config.train_ways or config.ways)
        return self._sampler(config, "train", config.train_shots or config.shots, config.queries, config.tasks)

    def evaluation(self, config: Config, split: Split) -> EpisodeSampler:
        """The sampler of validation or test."""
        return self._sampler(config, split, config.shots, config.test_queries, EVALUATION_BATCH)

    def validation(self, config: Config) -> Validation:
        """What to validate on. A split without validation characters is only watched, on those of training."""
        held_out = not (config.dataset == "omniglot" and config.scheme in ("reptile", "lake"))
        sampler = self.evaluation(config, "val" if held_out else "train")
        return Validation(sampler, config.val_tasks, config.val_every, keep_best=held_out)

    def _sampler(self, config: Config, split: Split, shots: int, queries: int, tasks: int) -> EpisodeSampler:
        if config.dataset == "sinusoids":
            return sinusoids().episodes(shots, queries, tasks)
        classes = self._classes(config, split)
        try:
            return classes.episodes(config.ways, shots, queries, tasks)
        except ValueError as error:
            raise ConfigError(f"{split} tasks of {config.dataset}: {error}") from error

    def _classes(self, config: Config, split: Split) -> ImageClasses:
        if config.dataset == "glyphs":
            return glyphs(split, device=self.device)
        return omniglot(
            self.root,
            split,
            config.scheme,
            rotations=None if split == "train" else config.test_rotations,
            device=self.device,
            download=self.download,
            progress=self.progress,
        )


def net_spec(config: Config) -> dict[str, Any]:
    """The network as one of :data:`innerloop.nets.NETS` and its arguments."""
    arguments: dict[str, Any]
    if config.regression:
        name, arguments = "mlp", {"hidden": list(config.hidden), "activation": config.activation}
    elif config.method == "nearest_neighbour":
        name, arguments = "pixels", {"ways": config.ways}
    else:
        name, ways = "conv4", config.train_ways or config.ways
        arguments = {"ways": ways, "filters": config.filters, "pool": config.pool, "head_std": config.head_std}
    if config.method == "cavia":
        return {"name": f"{name}_with_context", "arguments": {"size": config.context_size, **arguments}}
    if config.method == "bmaml":
        return {"name": f"{name}_with_particles", "arguments": {"particles": config.particles, **arguments}}
    if config.method in ("t_net", "warpgrad"):
        return {"name": f"{name}_with_warps", "arguments": {"warp": config.warp, **arguments}}
    return {"name": name, "arguments": arguments}


def make_method(config: Config) -> Method:
    """The method with those of the configuration's settings that it takes."""
    make = METHODS[config.method]
    arguments = {name: getattr(config, name) for name in inspect.signature(make).parameters if hasattr(config, name)}
    return make(**arguments)


@dataclass(frozen=True)
class Running:
    """How a run is computed, which changes its speed and its rounding, and nothing that the configuration says."""

    execution: Literal["auto", "serial", "batched", "fastest"] | int = "auto"
    """How tasks run: serial, batched, or a number of tasks at a time; auto decides by sizes, fastest by timing."""
    precision: Precision = "full"
    """full, tf32 (products of NVIDIA GPUs), or bf16 (forward pass)."""
    compile: bool = False
    """Compile meta-gradients; it takes minutes, and is for GPUs and small networks."""


def make_trainer(config: Config, net: nn.Module, running: Running = Running()) -> MetaTrainer:
    """The trainer of a run.

    Raises:
        ConfigError: the settings do not fit the network.
    """
    optimizers: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
        "adam": partial(torch.optim.Adam, lr=config.outer_lr),
        "sgd": partial(torch.optim.SGD, lr=config.outer_lr),
    }

    def scheduler(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, partial(SCHEDULES[config.outer_schedule], iterations=config.iterations))

    method = make_method(config)
    if config.iterations and not method.learns:
        raise ConfigError(
            f"--iterations is {config.iterations}; {config.method} learns nothing from other tasks: it must be 0"
        )
    try:
        return MetaTrainer(
            net,
            method,
            optimizers[config.outer_optimizer],
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
