"""Whole training: tasks per second, and how its time divides among its parts."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from typing import Any

import torch
from torch.optim import Optimizer

from innerloop.bench.contenders import method_of
from innerloop.bench.options import Options
from innerloop.bench.rows import ROWS, Row, Sizes, make_network, spec_of
from innerloop.bench.work import forward_flops, matmul_rate, meta_gradient_flops
from innerloop.data import ImageClasses, find_omniglot, glyphs, omniglot
from innerloop.engine.engine import FIRST_CALLS
from innerloop.episode import Episode, EpisodeSampler
from innerloop.training.trainer import MetaTrainer

__all__ = ["throughput"]

WARM_UP = FIRST_CALLS
REPTILE = Sizes(5, 5, 10, 0, 5)
PARTS = ("sampling", "meta-gradient", "outer step", "logging")


def throughput(options: Options) -> dict[str, Any]:
    """Train on real episodes, with metrics written to a folder, and divide the time among the parts of training.

    The parts are: drawing a meta-batch, the meta-gradient, the optimizer's step, and all the rest, which is called
    logging. They are timed from outside, by the moments at which the sampler and the outer optimizer are called.
    """
    sizes = Sizes(*options.sizes) if options.sizes else REPTILE if options.what == "reptile" else ROWS[0].sizes
    row = Row(options.network, sizes)
    spec = spec_of(options.what, sizes, options.inner_lr)
    dataset, classes = _classes(options)
    net = make_network(row, options.seed)
    clock = _Clock(classes.episodes(sizes.ways, sizes.shots, sizes.queries, sizes.tasks))
    trainer = MetaTrainer(net, method_of(spec), lambda params: clock.watch(torch.optim.Adam(params, 1e-3)))
    rate = matmul_rate()
    with tempfile.TemporaryDirectory() as folder:
        # One more iteration is run: its beginning ends the last one that counts, and the final saving is not timed.
        trainer.fit(clock.sample, WARM_UP + options.iterations + 1, folder=folder, progress=False)
    parts = clock.parts(WARM_UP, options.iterations)
    seconds = sum(parts.values())
    image = classes.episodes(sizes.ways, 1, 0, 1)(torch.Generator().manual_seed(0)).support_x[0, :2]
    flops = meta_gradient_flops(options.what, sizes, forward_flops(net, image))
    return {
        "network": row.network,
        "sizes": asdict(sizes),
        "dataset": dataset,
        "iterations": options.iterations,
        "tasks_per_second": options.iterations * sizes.tasks / seconds,
        "seconds_per_iteration": seconds / options.iterations,
        "shares": {part: parts[part] / seconds for part in PARTS},
        "flops": flops,
        "matmul_rate": rate,
        "fraction_of_matmul_rate": flops * options.iterations / seconds / rate,
    }


class _Clock:
    """Notes the times at which each part of training begins."""

    def __init__(self, sampler: EpisodeSampler) -> None:
        self._sampler = sampler
        self._moments: dict[str, list[float]] = {part: [] for part in PARTS}

    def sample(self, generator: torch.Generator) -> Episode:
        """Draw a meta-batch."""
        self._note("sampling")
        episode = self._sampler(generator)
        self._note("meta-gradient")
        return episode

    def watch(self, optimizer: Optimizer) -> Optimizer:
        """Note the times at which the optimizer's steps begin and end."""
        optimizer.register_step_pre_hook(lambda *_: self._note("outer step"))
        optimizer.register_step_post_hook(lambda *_: self._note("logging"))
        return optimizer

    def parts(self, first: int, iterations: int) -> dict[str, float]:
        """The seconds of each part, over ``iterations`` iterations from ``first`` on."""
        chosen = range(first, first + iterations)
        begins = [[self._moments[part][i] for part in PARTS] + [self._moments[PARTS[0]][i + 1]] for i in chosen]
        return {part: sum(moments[k + 1] - moments[k] for moments in begins) for k, part in enumerate(PARTS)}

    def _note(self, part: str) -> None:
        """Note that a part begins now."""
        self._moments[part].append(time.perf_counter())


def _classes(options: Options) -> tuple[str, ImageClasses]:
    """Omniglot if its folder is given or found, otherwise glyphs."""
    if options.data_dir is not None or find_omniglot() is not None:
        return "omniglot", omniglot(options.data_dir, progress=False)
    return "glyphs", glyphs()
