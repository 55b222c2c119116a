"""Time of one exact MAML meta-gradient, side by side with the peers, after checking that all of them agree.

    python benchmarks/meta_gradient.py                 # every row
    python benchmarks/meta_gradient.py --rows 1 3 --threads 2 --json

Every contender gets a copy of the same network, the four-layer Omniglot one of the MAML paper, and the same
episodes of random images. First the gradients are compared, and the exit status is 1 if they differ. Then the
contenders take turns, and a ratio is the median over rounds of the ratio within a round. A peer that is not
installed is named and left out (``pip install innerloop[peers]``).

With ``--json`` each of ``rows`` has the sizes, the median ``seconds`` of each contender, and
``ratio_to_fastest_peer``: innerloop's time over that of the fastest peer, below 1 where innerloop is faster.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from _timing import interleaved, paired_ratio
from peers import PEERS, MetaGradientFn
from torch import Tensor, nn

import innerloop as il
from innerloop.execute import Engine, Execution

OURS = "innerloop"
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Largest relative difference of two gradients that are the same to rounding."""


@dataclass(frozen=True)
class Sizes:
    """A meta-batch: ``queries`` and ``shots`` count examples of each class."""

    tasks: int
    ways: int
    shots: int
    queries: int
    steps: int

    def __str__(self) -> str:
        return (
            f"{self.tasks} tasks, {self.ways} ways, {self.shots} shots, {self.queries} queries a class, "
            f"{self.steps} inner steps"
        )


ROWS = (Sizes(32, 5, 1, 1, 1), Sizes(32, 5, 1, 15, 1), Sizes(16, 20, 1, 1, 5), Sizes(8, 5, 5, 15, 5))
"""What is measured by default."""


class DisagreementError(Exception):
    """A contender's gradient is not the one the others computed."""


def episode_of(sizes: Sizes, seed: int) -> il.Episode:
    """Random images ``[tasks, ways * examples, 1, 28, 28]``, their classes in order."""
    generator = torch.Generator().manual_seed(seed)

    def draw(examples: int) -> tuple[Tensor, Tensor]:
        x = torch.rand(sizes.tasks, sizes.ways * examples, 1, 28, 28, generator=generator)
        return x, torch.arange(sizes.ways).repeat_interleave(examples).repeat(sizes.tasks, 1)

    return il.Episode(*draw(sizes.shots), *draw(sizes.queries))


def ours(net: nn.Module, inner_lr: float, steps: int, execution: Execution = "auto") -> MetaGradientFn:
    """The meta-gradient by innerloop, its engine built once as :class:`innerloop.MetaTrainer` does."""
    engine, method = Engine(net, execution=execution), il.maml(inner_lr, steps)
    return lambda episode: engine.meta_gradient(method, episode)[0]


def contenders_of(
    net: nn.Module, inner_lr: float, steps: int, executions: Sequence[Execution] = ()
) -> tuple[dict[str, MetaGradientFn], dict[str, str]]:
    """Every contender by name, innerloop first, each with its own copy of the network; and why others are missing."""
    contenders = {OURS: ours(copy.deepcopy(net), inner_lr, steps)}
    missing = {}
    for name, peer in PEERS.items():
        try:
            contenders[name] = peer(copy.deepcopy(net), inner_lr, steps)
        except ImportError as error:
            missing[name] = str(error)
    for execution in executions:
        contenders[f"{OURS} {execution}"] = ours(copy.deepcopy(net), inner_lr, steps, execution)
    return contenders, missing


def relative_difference(grads: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of any entry, relative to the largest entry of the same parameter's gradient.

    Infinite if the names differ or a value is not a number.
    """
    if grads.keys() != expected.keys():
        return math.inf
    differences = [float((grads[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in expected.items()]
    return math.inf if any(map(math.isnan, differences)) else max(differences)


def agreement(contenders: Mapping[str, MetaGradientFn], pieces: Sequence[il.Episode]) -> dict[str, float]:
    """How far every other contender's gradient is from innerloop's, by name: the median over pieces of an episode.

    In float32 the pieces are to be single tasks. There rounding moves one activation in a million or so across the
    kink of its ReLU, and that alone can change the second-order gradient of that task by several percent. In float64
    no activation is that close, and the whole episode is to be one piece.

    Raises:
        DisagreementError: it is further than :data:`TOLERANCE`.
    """
    expected = [contenders[OURS](piece) for piece in pieces]
    found = {
        name: median(relative_difference(fn(piece), right) for piece, right in zip(pieces, expected, strict=True))
        for name, fn in contenders.items()
        if name != OURS
    }
    dtype = pieces[0].support_x.dtype
    wrong = [f"{name} by {difference:.1e}" for name, difference in found.items() if difference > TOLERANCE[dtype]]
    if wrong:
        raise DisagreementError(
            f"gradients differ from {OURS}'s by more than {TOLERANCE[dtype]:.0e} in {dtype}: {', '.join(wrong)}"
        )
    return found


def measure(sizes: Sizes, options: argparse.Namespace) -> dict[str, Any]:
    """Check and time one row; the result is what ``--json`` prints of it.

    Raises:
        DisagreementError: the contenders do not compute the same gradient.
    """
    inner_lr = learning_rate(sizes, options)
    torch.manual_seed(options.seed)
    net = il.nets.conv4(sizes.ways)
    episode = episode_of(sizes, options.seed)
    contenders, _ = contenders_of(net, inner_lr, sizes.steps, options.executions)
    exact, _ = contenders_of(copy.deepcopy(net).double(), inner_lr, sizes.steps, options.executions)
    differences = {
        "float64": agreement(exact, [episode.map(lambda t: t.double() if t.is_floating_point() else t)]),
        "float32": agreement(contenders, list(episode.chunks(1))),
    }
    calls = {name: functools.partial(fn, episode) for name, fn in contenders.items()}
    interleaved(calls, rounds=1)  # to warm up
    samples = interleaved(calls, options.rounds)
    seconds = {name: median(times) for name, times in samples.items()}
    fastest = min((name for name in contenders if name in PEERS), key=seconds.__getitem__, default=None)
    return {
        "sizes": asdict(sizes),
        "inner_lr": inner_lr,
        "seconds": seconds,
        "ratio_to_innerloop": {name: paired_ratio(times, samples[OURS]) for name, times in samples.items()},
        "fastest_peer": fastest,
        "ratio_to_fastest_peer": None if fastest is None else paired_ratio(samples[OURS], samples[fastest]),
        "relative_difference": differences,
        "samples": samples,
    }


def learning_rate(sizes: Sizes, options: argparse.Namespace) -> float:
    """The inner learning rate asked for, or those of the MAML paper for one step and for several."""
    if options.inner_lr is not None:
        return float(options.inner_lr)
    return 0.4 if sizes.steps == 1 else 0.1


def print_row(sizes: Sizes, row: Mapping[str, Any]) -> None:
    """One table: a line for each contender, the fastest first."""
    print(f"\n{sizes}, inner learning rate {row['inner_lr']}")
    print(f"  {'':20}{'seconds':>10}{'ratio to innerloop':>22}{'differs in float64':>22}{'float32':>11}")
    for name in sorted(row["seconds"], key=row["seconds"].__getitem__):
        line = f"  {name:20}{row['seconds'][name]:10.3f}{row['ratio_to_innerloop'][name]:22.2f}"
        if name != OURS:
            double, single = (row["relative_difference"][dtype][name] for dtype in ("float64", "float32"))
            line += f"{double:22.1e}{single:11.1e}"
        print(line)


def versions() -> dict[str, str]:
    """Of Python, torch, innerloop and every peer installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in (OURS, *PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="Rows: " + "; ".join(f"{number}: {sizes}" for number, sizes in enumerate(ROWS, 1)) + ".",
    )
    numbers = range(1, len(ROWS) + 1)
    parser.add_argument("--rows", type=int, nargs="+", choices=numbers, default=list(numbers), help="which rows")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs=5,
        metavar=("TASKS", "WAYS", "SHOTS", "QUERIES", "STEPS"),
        help="a row of your own instead",
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender is timed (5)")
    parser.add_argument("--threads", type=int, help="threads of torch (torch's own default)")
    parser.add_argument("--inner-lr", type=float, help="inner learning rate (0.4 for one step, 0.1 for several)")
    parser.add_argument(
        "--executions",
        type=lambda text: int(text) if text.isdecimal() else text,
        nargs="+",
        default=[],
        help="further ways for innerloop to run the tasks: serial, batched, or so many at a time",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the network and the images (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status: 1 if gradients disagree."""
    options = parse(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    rows = [Sizes(*options.sizes)] if options.sizes else [ROWS[number - 1] for number in options.rows]
    used = versions()
    print(", ".join(f"{name} {version}" for name, version in used.items()), f"({torch.get_num_threads()} threads)")
    _, missing = contenders_of(il.nets.conv4(2), 0.1, 1)
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}")
    results = []
    try:
        for sizes in rows:
            results.append(measure(sizes, options))
            print_row(sizes, results[-1])
    except DisagreementError as error:
        print(error, file=sys.stderr)
        return 1
    if options.json:
        report = {
            "versions": used,
            "threads": torch.get_num_threads(),
            "rounds": options.rounds,
            "missing": missing,
            "rows": results,
        }
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
