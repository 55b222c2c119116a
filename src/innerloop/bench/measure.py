"""Measure one row: check that all contenders agree, time them in turns, and measure the memory of each alone."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor

from innerloop.bench.agreement import agreement, tolerance
from innerloop.bench.alone import alone
from innerloop.bench.contenders import OURS, contenders_of, warmed_up
from innerloop.bench.options import Options
from innerloop.bench.peers import PEERS, MetaGradientFn, Spec
from innerloop.bench.rows import Row, episode_of, make_network, spec_of
from innerloop.bench.timing import interleaved, paired_ratio
from innerloop.bench.work import forward_flops, matmul_rate, meta_gradient_flops
from innerloop.episode import Episode

__all__ = ["compared", "measure"]


def measure(row: Row, options: Options) -> dict[str, Any]:
    """Check and time one row. The result is what ``--json`` prints for it.

    Raises:
        DisagreementError: the contenders do not compute the same gradient.
    """
    spec = spec_of(options.what, row.sizes, options.inner_lr)
    net, episode = make_network(row, options.seed), episode_of(row, options.seed)
    contenders, _ = contenders_of(net, spec, options.ways, peers=options.peers)
    exact, _ = contenders_of(copy.deepcopy(net).double(), spec, options.ways, peers=options.peers)
    failed = _failing(exact, _double(episode[:1]))
    for name in failed:
        del contenders[name], exact[name]
    differences = {
        "float64": agreement(exact, [_double(episode)], tolerance(torch.float64, spec.steps)),
        "float32": agreement(contenders, _single_tasks(row, options.seed), tolerance(torch.float32, spec.steps)),
    }
    del exact
    calls = {name: functools.partial(warmed_up(fn, episode), episode) for name, fn in contenders.items()}
    rate = matmul_rate(clock=options.clock)
    samples = interleaved(calls, options.rounds, options.clock)
    rate = max(rate, matmul_rate(clock=options.clock))
    flops = meta_gradient_flops(options.what, row.sizes, forward_flops(net, episode.support_x[0, :2]))
    return {
        "network": row.network,
        "sizes": asdict(row.sizes),
        "inner_lr": spec.inner_lr,
        **compared(samples, flops, rate),
        **(_alone(contenders, row, spec, options) if options.memory else {"peak_memory": {}, "first_call": {}}),
        "relative_difference": differences,
        "left_out": failed,
        "samples": samples,
    }


def compared(samples: Mapping[str, Sequence[float]], flops: int, matmul_rate: float) -> dict[str, Any]:
    """Compare the contenders, from their seconds in each round.

    Args:
        samples: the seconds of each contender, one for each round.
        flops: the operations of the meta-gradient.
        matmul_rate: the operations per second of the machine's matrix product.

    Example:
        >>> result = compared({"innerloop": [2.0, 2.0], "higher": [5.0, 5.0], "torchopt": [4.0, 4.0]}, 100, 200.0)
        >>> result["fastest_peer"], result["ratio_to_fastest_peer"], result["times_fastest_peer"]
        ('torchopt', 0.5, 2.0)
        >>> result["fraction_of_matmul_rate"]
        0.25
    """
    seconds = {name: median(times) for name, times in samples.items()}
    fastest = min((name for name in seconds if name in PEERS), key=seconds.__getitem__, default=None)
    return {
        "seconds": seconds,
        "ratio_to_innerloop": {name: paired_ratio(times, samples[OURS]) for name, times in samples.items()},
        "fastest_peer": fastest,
        "ratio_to_fastest_peer": None if fastest is None else paired_ratio(samples[OURS], samples[fastest]),
        "times_fastest_peer": None if fastest is None else paired_ratio(samples[fastest], samples[OURS]),
        "flops": flops,
        "matmul_rate": matmul_rate,
        "fraction_of_matmul_rate": flops / seconds[OURS] / matmul_rate,
    }


def _failing(contenders: Mapping[str, MetaGradientFn], episode: Episode) -> dict[str, str]:
    """The peers that cannot run this network, and their error messages. A failure of innerloop is raised."""
    failed = {}
    for name, fn in contenders.items():
        try:
            fn(episode)
        except Exception as error:
            if name not in PEERS:
                raise
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return failed


def _alone(names: Mapping[str, object], row: Row, spec: Spec, options: Options) -> dict[str, dict[str, Any]]:
    """The peak memory and the seconds of the first call of each contender; None if unknown."""
    threads = torch.get_num_threads()
    found = {name: alone(name, row, spec, threads=threads, seed=options.seed) for name in names}
    return {
        "peak_memory": {name: None if one is None else one.peak_memory for name, one in found.items()},
        "first_call": {name: None if one is None else one.first_call for name, one in found.items()},
    }


def _single_tasks(row: Row, seed: int) -> list[Episode]:
    """Nine tasks of a row's sizes, each as an episode. With nine, one or two odd tasks do not move the median."""
    return list(episode_of(replace(row, sizes=replace(row.sizes, tasks=9)), seed).chunks(1))


def _double(episode: Episode) -> Episode:
    def convert(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    return episode.map(convert)
