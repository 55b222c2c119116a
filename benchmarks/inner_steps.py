"""Time and memory of the exact meta-gradients against the number of inner steps, each point in a process of its own.

    python benchmarks/inner_steps.py                                   # 1 to 128 inner steps, the three estimators
    python benchmarks/inner_steps.py --steps 4 64 --tasks 2 --threads 1 --json

The network is the four-layer one of Omniglot, 5 ways and 1 shot, on random images. ``peak`` is the most memory that the
process held (its resident set) during the first meta-gradient, ``above`` is what of it was not there before, after a
meta-gradient of a tiny network. ``seconds`` is the least time of several rounds after that, and ``cpu`` the least
processor time, which other programs disturb less; ``ratio`` is the latter over that of ``unrolled`` at the same number
of steps.

With ``--json`` the last line is one object: ``points`` has for each estimator and number of steps both times of every
round and both memories in MiB.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import innerloop as il
from innerloop.bench import rows
from innerloop.execute import Engine
from innerloop.metagrad import MetaGradient

ESTIMATORS = ("unrolled", "checkpointed", "mixed_mode")
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
MIB = 2**20


def estimator(text: str) -> MetaGradient:
    """From a name with or without a number, as ``mixed_mode`` or ``mixed_mode(4)``.

    Raises:
        ValueError: there is no such estimator.
    """
    name, _, rest = text.partition("(")
    if name not in ESTIMATORS:
        raise ValueError(f"{text!r} is no estimator; choose {', '.join(ESTIMATORS)}, or with a number: mixed_mode(4)")
    arguments = [ast.literal_eval(rest.removesuffix(")"))] if rest else []
    made: MetaGradient = getattr(il, name)(*arguments)
    return made


def episode_of(tasks: int, queries: int) -> il.Episode:
    """Random images of 5 classes, one of each to adapt on."""
    return rows.episode_of(rows.Row("omniglot", rows.Sizes(tasks, 5, 1, queries, 1)), seed=0)


def resident() -> int:
    """Bytes of memory that this process holds."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * resource.getpagesize() if status.exists() else peak()


def peak() -> int:
    """The most bytes that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(name: str, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """One point, in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tiny = il.maml(options.inner_lr, 2, meta_gradient=estimator(name))
    Engine(il.nets.conv4(5, filters=2), execution=1).meta_gradient(tiny, episode_of(1, 1))
    engine = Engine(il.nets.conv4(5), execution=options.tasks)
    episode = episode_of(options.tasks, options.queries)
    method = il.maml(options.inner_lr, steps, meta_gradient=estimator(name))
    before = resident()
    engine.meta_gradient(method, episode)
    most = peak()
    times: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
    for _ in range(options.rounds):
        start, cpu_start = time.perf_counter(), time.process_time()
        engine.meta_gradient(method, episode)
        times["seconds"].append(time.perf_counter() - start)
        times["cpu_seconds"].append(time.process_time() - cpu_start)
    memory = {"above_mib": (most - before) / MIB, "peak_mib": most / MIB}
    return {"estimator": name, "steps": steps, **times, **memory}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), help="as mixed_mode or mixed_mode(4)")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="inner steps (1 2 4 ... 128)")
    parser.add_argument("--tasks", type=int, default=4, help="tasks that run together (4)")
    parser.add_argument("--queries", type=int, default=15, help="queries of a class (15)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--inner-lr", type=float, default=0.1, help="inner learning rate (0.1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--point", action="store_true", help="one point in this process, as JSON; used by the others")
    return parser.parse_args(arguments)


def in_its_own_process(name: str, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """One point, in a fresh process."""
    numbers = {"--steps": steps, "--tasks": options.tasks, "--queries": options.queries, "--rounds": options.rounds}
    numbers |= {"--threads": options.threads, "--inner-lr": options.inner_lr}
    words = [text for key, value in numbers.items() for text in (key, str(value))]
    command = [sys.executable, __file__, "--point", "--estimators", name, *words]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    point: dict[str, Any] = json.loads(output.splitlines()[-1])
    return point


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(arguments)
    if options.point:
        print(json.dumps(measure(options.estimators[0], options.steps[0], options)))
        return
    for name in options.estimators:
        estimator(name)  # a misspelt name is to fail before anything is measured
    print(f"{options.tasks} tasks together, 5 ways, 1 shot, {options.queries} queries a class, MiB above the start")
    print(f"  {'steps':>5}  {'':20}{'seconds':>10}{'cpu':>10}{'ratio':>8}{'above':>9}{'peak':>9}")
    points = []
    for steps in options.steps:
        row = [in_its_own_process(name, steps, options) for name in options.estimators]
        reference = next((min(point["cpu_seconds"]) for point in row if point["estimator"] == "unrolled"), None)
        for point in row:
            seconds, cpu = min(point["seconds"]), min(point["cpu_seconds"])
            ratio = "" if reference is None else f"{cpu / reference:.2f}"
            sizes = f"{point['above_mib']:9.1f}{point['peak_mib']:9.1f}"
            print(f"  {steps:5}  {point['estimator']:20}{seconds:10.3f}{cpu:10.3f}{ratio:>8}{sizes}", flush=True)
        points += row
    if options.json:
        about = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.processor()}
        used = {key: getattr(options, key) for key in ("tasks", "queries", "rounds", "threads", "inner_lr")}
        print(json.dumps({**about, **used, "points": points}))


if __name__ == "__main__":
    main()
