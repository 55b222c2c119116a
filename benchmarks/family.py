"""Every method on Omniglot, trained with one short schedule: accuracy in both norm modes, time and memory.

    python benchmarks/family.py --data-dir D                     # everything; takes hours, and can be continued
    python benchmarks/family.py --methods maml boil --cells 5w1s
    python benchmarks/family.py --stages table                   # only print what has been measured

Each method runs its recipe ``omniglot-CELL-METHOD`` with the schedule below. The number of iterations, the number of
tasks and the split are the same for all, and the outer rate falls to zero. Only methods that take one large episode at
a time have another number of tasks. Inner loops, networks and outer optimizers are those of the recipes. Accuracies are
taken after the last inner step.

Time and memory are measured apart from training, in one process for each method. Time is the processor seconds of one
iteration on one thread, the least of several. Memory is the peak beyond what the process had before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from innerloop.bench.alone import peak_of
from innerloop.nets import NETS
from innerloop.randomness import Stream, generator_at
from innerloop.recipes import RECIPES, Config, DataSource, evaluate_run, train_run
from innerloop.recipes.build import make_trainer, net_spec

SCHEDULES: dict[str, dict[str, Any]] = {
    "5w1s": {"iterations": 1000, "tasks": 8, "queries": 5, "test_tasks": 600},
    "20w1s": {"iterations": 300, "tasks": 4, "queries": 2, "test_tasks": 300},
}
ADAM = {"outer_lr": 3e-3, "outer_schedule": "cosine", "head_std": None}
"""Settings of the methods whose outer optimizer is Adam. Reptile's outer rate falls from 1 to 0, as in its recipe."""


def methods(cell: str) -> list[str]:
    """The methods that have a recipe for this cell."""
    prefix = f"omniglot-{cell}-"
    return [name.removeprefix(prefix) for name in RECIPES if name.startswith(prefix)]


def scheduled(cell: str, method: str) -> Config:
    """The recipe of a method with the common schedule."""
    config = RECIPES[f"omniglot-{cell}-{method}"]
    changes: dict[str, Any] = {**SCHEDULES[cell], "scheme": "maml", "val_tasks": 20}
    # Methods without queries or without training, and those that take one large episode at a time, stay so.
    changes |= {name: getattr(config, name) for name in ("queries", "iterations") if getattr(config, name) == 0}
    if config.tasks == 1:
        changes["tasks"] = 1
    images = SCHEDULES[cell]["tasks"] * config.ways * (config.shots + SCHEDULES[cell]["queries"])
    changes["joint_batch"] = images  # a classifier sees as many images in an iteration as MAML
    if config.outer_optimizer == "adam":
        changes |= ADAM
    changes |= {"val_every": max(1, changes["iterations"]), "multi_step_iterations": changes["iterations"] // 10}
    return replace(config, **changes)


def trained(cell: str, method: str, folder: Path, source: DataSource) -> dict[str, Any]:
    """Train, or go on, and evaluate in both norm modes."""
    config = scheduled(cell, method)
    train_run(f"omniglot-{cell}-{method}", config, folder, source, resume=(folder / "config.json").is_file())
    found: dict[str, Any] = {}
    for norm in ("transductive", "inductive"):
        result = evaluate_run(folder, source, norm=norm, last_step=True).as_json()
        found[norm] = {key: result[key] for key in ("accuracy", "ci95", "tasks", "inner_steps")}
    return found


def cost(cell: str, method: str, source: DataSource, rounds: int = 5) -> dict[str, float]:
    """Processor seconds of one iteration and its memory, in this process."""
    torch.manual_seed(0)
    config = scheduled(cell, method)
    spec = net_spec(config)
    trainer = make_trainer(config, NETS[spec["name"]](**spec["arguments"]))
    sampler = source.training(config)
    seconds: list[float] = []

    def iterate(index: int) -> None:
        generator = generator_at(0, Stream.TRAINING, index)
        started = time.process_time()
        trainer.step(sampler(generator), generator)
        seconds.append(time.process_time() - started)

    def first_two() -> None:
        iterate(0)
        iterate(1)

    memory = peak_of(first_two)
    for index in range(2, 2 + rounds):
        iterate(index)
    return {"cpu_seconds": min(seconds), "peak_mib": -1.0 if memory is None else memory / 2**20}


def table(out: Path, cells: Sequence[str]) -> str:
    """The measurements as a table in Markdown."""
    lines: list[str] = []
    for cell in cells:
        iterations, tasks, queries, test_tasks = SCHEDULES[cell].values()
        ways, shots = cell.removesuffix("s").split("w")
        about = f"{iterations} iterations of {tasks} tasks, {queries} queries a class; {test_tasks} test tasks."
        lines.append(f"{ways}-way {shots}-shot: {about}")
        lines += ["", "| method | transductive | inductive | CPU seconds an iteration | to MAML | peak memory, MiB |"]
        lines += ["|---|---|---|---|---|---|"]
        base = _read(out / cell / "maml" / "cost.json").get("cpu_seconds")
        for method in methods(cell):
            accuracy, costs = (_read(out / cell / method / f"{what}.json") for what in ("accuracy", "cost"))
            columns = [
                f"{100 * accuracy[norm]['accuracy']:.1f} ± {100 * accuracy[norm]['ci95']:.1f} %" if accuracy else ""
                for norm in ("transductive", "inductive")
            ]
            seconds, memory = costs.get("cpu_seconds"), costs.get("peak_mib")
            columns += [
                "" if seconds is None else f"{seconds:.3f}",
                f"{seconds / base:.2f}" if seconds and base else "",
            ]
            columns += ["" if memory is None or memory < 0 else f"{memory:.0f}"]
            lines.append(f"| `{method}` | {' | '.join(columns)} |")
        lines.append("")
    return "\n".join(lines)


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of Omniglot (INNERLOOP_DATA or the cache folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/family"), help="where runs and figures go (runs/family)")
    parser.add_argument("--cells", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--methods", nargs="+", help="names as in the recipes (all that have one)")
    parser.add_argument("--stages", nargs="+", choices=["train", "cost", "table"], default=["train", "cost", "table"])
    parser.add_argument("--one-cost", nargs=2, metavar=("CELL", "METHOD"), help="in this process; used by the others")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, print."""
    options = parse(arguments)
    torch.set_num_threads(1)
    source = DataSource(options.data_dir, progress=False)
    if options.one_cost:
        print(json.dumps(cost(*options.one_cost, source)))
        return
    jobs = [(cell, method) for cell in options.cells for method in methods(cell)]
    if options.methods:
        if unknown := sorted(set(options.methods) - {method for _, method in jobs}):
            raise SystemExit(f"no recipe for {', '.join(unknown)}; choose among {', '.join(methods(options.cells[0]))}")
        jobs = [job for job in jobs if job[1] in options.methods]
    for stage, seconds_name in (("train", "accuracy"), ("cost", "cost")):
        for cell, method in jobs if stage in options.stages else []:
            folder = options.out / cell / method
            figures = folder / f"{seconds_name}.json"
            if figures.is_file():
                continue
            started = time.monotonic()
            if stage == "train":
                found = trained(cell, method, folder / "run", source)
            else:
                words = [sys.executable, __file__, "--one-cost", cell, method]
                words += ["--data-dir", str(options.data_dir)] if options.data_dir else []
                output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                found = json.loads(output.splitlines()[-1])
            folder.mkdir(parents=True, exist_ok=True)
            figures.write_text(json.dumps(found) + "\n")
            print(f"{stage} {cell} {method}: {found} ({time.monotonic() - started:.0f} s)", flush=True)
    if "table" in options.stages:
        print(table(options.out, options.cells))


if __name__ == "__main__":
    main()
