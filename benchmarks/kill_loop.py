"""Kill training runs at random moments, resume them, and compare the end with a run that was not killed.

    python benchmarks/kill_loop.py --data-dir D                  # four small schedules, 100 kills in all
    python benchmarks/kill_loop.py --schedules sinusoids-maml --runs 3 --kills 5 --seed 1
    python benchmarks/kill_loop.py --schedules glyphs-fomaml -- --execution serial   # settings of 'innerloop train'

Each run is a process of its own on two threads, as a user would start it. It is killed with SIGKILL, which no program
can catch, and started again with ``--resume``. At the end it must equal the unbroken run to the last bit: every tensor
and number of the checkpoint, the learner and the best learners, and every line of the metrics except the tasks per
second. If anything differs, the exit status is 1 and both folders are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from innerloop.learner.files import load_state
from innerloop.training.metrics import read_metrics

SCHEDULES: dict[str, list[str]] = {
    "omniglot-maml": [
        *["omniglot-5w1s-maml", "--filters", "8", "--tasks", "8", "--iterations", "400"],
        *["--val-every", "20", "--val-tasks", "20"],
    ],
    "glyphs-fomaml": [
        *["glyphs-5w1s-maml", "--method", "fomaml", "--filters", "8", "--tasks", "8", "--iterations", "400"],
        *["--val-every", "20", "--val-tasks", "20"],
    ],
    "sinusoids-maml": [
        *["sinusoid-maml", "--iterations", "1500", "--val-every", "50", "--val-tasks", "20"],
    ],
    "sinusoids-reptile": [
        *["sinusoid-reptile", "--inner-optimizer", "adam", "--inner-lr", "0.01", "--tasks", "3"],
        *["--iterations", "1500", "--val-every", "50", "--val-tasks", "20"],
    ],
}
"""Recipes with schedules of a few seconds. They cover second and first order, images and numbers, and carried state."""


@dataclass(frozen=True)
class Outcome:
    """The result of one run that was killed several times.

    Attributes:
        kills: the number of kills before the run was done.
        differences: the differences from the unbroken run; empty if there are none.
    """

    kills: int
    differences: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop, print a line for each run and the sum, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=list(SCHEDULES))
    parser.add_argument("--runs", type=int, default=5, help="killed runs of each schedule")
    parser.add_argument("--kills", type=int, default=5, help="kills of each run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--data-dir", type=Path, help="folder of Omniglot")
    parser.add_argument("settings", nargs="*", help="further settings of 'innerloop train', after --")
    arguments = parser.parse_args(argv)
    chance = random.Random(arguments.seed)
    common = ["--threads", str(arguments.threads), *arguments.settings]
    if arguments.data_dir is not None:
        common += ["--data-dir", str(arguments.data_dir)]
    outcomes: list[Outcome] = []
    for name in arguments.schedules:
        with tempfile.TemporaryDirectory(prefix="kill_loop_") as scratch:
            for number, outcome in enumerate(
                loop([*SCHEDULES[name], *common], Path(scratch), arguments.runs, arguments.kills, chance)
            ):
                outcomes.append(outcome)
                found = "; ".join(outcome.differences[:5]) or "the same bits"
                print(f"{name}, run {number + 1}: {outcome.kills} kills, {found}", flush=True)
            if any(outcome.differences for outcome in outcomes):
                kept = Path(tempfile.mkdtemp(prefix="kill_loop_kept_"))
                shutil.copytree(scratch, kept, dirs_exist_ok=True)
                print(f"the folders are kept in {kept}")
                break
    bad = sum(bool(outcome.differences) for outcome in outcomes)
    print(f"{sum(outcome.kills for outcome in outcomes)} kills of {len(outcomes)} runs, {bad} ended otherwise")
    return 1 if bad else 0


def loop(settings: Sequence[str], scratch: Path, runs: int, kills: int, chance: random.Random) -> Iterator[Outcome]:
    """Train one unbroken run, then several runs with kills. Yield the outcome of each.

    Args:
        settings: the recipe and its settings, as for ``innerloop train``.
        scratch: an empty folder for the runs.
        runs: the number of runs to kill.
        kills: the number of kills of each run.
        chance: draws the moments.
    """
    whole = scratch / "whole"
    finish(start(settings, whole))
    iterations = max(int(record["iteration"]) for record in read_metrics(whole))
    for number in range(runs):
        folder = scratch / f"killed-{number + 1}"
        killed = 0
        for kill in range(kills):
            process = start(settings, folder)
            target = iterations * (kill + chance.random()) / kills
            if chance.random() < 0.85:
                reached = wait_for(folder, target, process)
            else:
                reached = wait(chance.uniform(0, 8), process)
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += reached and process.returncode == -signal.SIGKILL
            if process.returncode not in (0, -signal.SIGKILL):
                raise SystemExit(f"{folder} could not go on: exit status {process.returncode}")
        finish(start(settings, folder))
        yield Outcome(killed, differences(folder, whole))


def wait_for(folder: Path, iteration: float, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a run has come so far; whether it goes on."""
    while process.poll() is None:
        if any(record["iteration"] >= iteration for record in read_metrics(folder)):
            return True
        time.sleep(0.02)
    return False


def wait(seconds: float, process: subprocess.Popen[bytes]) -> bool:
    """Wait so long, in which a run mostly starts; whether it goes on."""
    time.sleep(seconds)
    return process.poll() is None


def start(settings: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start or resume a run in a process of its own. Python's hash seed differs each time."""
    command = [sys.executable, "-m", "innerloop", "train", *settings, "--out", str(folder), "--resume", "--quiet"]
    return subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": "random"})


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait until a run is done."""
    if process.wait():
        raise SystemExit(f"{' '.join(map(str, process.args))} failed")  # type: ignore[arg-type,unused-ignore]


def differences(folder: Path, whole: Path) -> list[str]:
    """The differences between the folders of two runs, in words."""
    found = []
    files = [{str(path.relative_to(each)) for path in each.rglob("*.safetensors")} for each in (folder, whole)]
    found += [f"{name} is in one folder only" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        one, other = (dict(leaves(load_state(each / name))) for each in (folder, whole))
        found += [f"{name}: {key}" for key in sorted(one.keys() | other.keys()) if unlike(one.get(key), other.get(key))]
    for name in sorted(files[0] & files[1]):
        if name.endswith("learner.safetensors"):
            about = [(each / name).with_suffix(".json") for each in (folder, whole)]
            found += [] if about[0].read_text() == about[1].read_text() else [f"{name.removesuffix('safetensors')}json"]
    metrics = [
        [json.dumps({k: v for k, v in record.items() if k != "tasks_per_second"}) for record in read_metrics(each)]
        for each in (folder, whole)
    ]
    return found + ([] if metrics[0] == metrics[1] else ["metrics.jsonl"])


def leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors and plain values of nested state, each with its place."""
    if isinstance(state, dict):
        for key, item in state.items():
            yield from leaves(item, f"{name}/{key}")
    elif isinstance(state, list | tuple):
        yield f"{name} (length)", len(state)
        for index, item in enumerate(state):
            yield from leaves(item, f"{name}/{index}")
    else:
        yield name, state


def unlike(one: Any, other: Any) -> bool:
    """Whether two leaves differ. Tensors are compared as bytes, so NaN equals NaN, and 0 differs from -0."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return not same or one.numpy().tobytes() != other.numpy().tobytes()
    return type(one) is not type(other) or one != other


if __name__ == "__main__":
    sys.exit(main())
