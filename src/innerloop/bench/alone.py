"""Measure the first call and the peak memory of one contender, alone in a new process.

The process runs ``python -m innerloop.bench.alone``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from innerloop.bench.contenders import contender, warmed_up
from innerloop.bench.peers import Spec
from innerloop.bench.rows import Row, Sizes, episode_of, make_network

__all__ = ["Alone", "alone", "peak_of"]

STATUS = Path("/proc/self/status")
PEAK_AGAIN = Path("/proc/self/clear_refs")  # writing 5 there resets the peak


@dataclass(frozen=True)
class Alone:
    """The time and memory that one contender needs in a process of its own.

    Attributes:
        first_call: the seconds from an unused network to the first meta-gradient, without imports.
        peak_memory: the peak bytes of its meta-gradients, beyond the memory that the process had before the first. It
            is None if unknown, as on systems other than Linux.
    """

    first_call: float
    peak_memory: int | None


def alone(name: str, row: Row, spec: Spec, *, threads: int, seed: int) -> Alone | None:
    """Measure a contender in a new process, so that no other contender's memory and no warm allocator counts.

    After the first calls the process calls the contender once more, because the first calls may change how it runs.

    Args:
        name: the name of the contender.
        row: the network and the sizes.
        spec: the computation.
        threads: the number of threads of torch.
        seed: the seed of the network and the images.

    Returns:
        The measurement, or None if the process failed, perhaps for lack of memory.
    """
    question = {
        "name": name,
        "network": row.network,
        "sizes": asdict(row.sizes),
        "spec": asdict(spec),
        "threads": threads,
        "seed": seed,
    }
    command = [sys.executable, "-W", "ignore", "-m", "innerloop.bench.alone"]
    done = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, check=False)
    try:
        return Alone(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, json.JSONDecodeError, TypeError):
        return None


def measured(question: str) -> Alone:
    """Measure what :func:`alone` asks for. This runs in the new process."""
    asked = json.loads(question)
    torch.set_num_threads(asked["threads"])
    row = Row(asked["network"], Sizes(**asked["sizes"]))
    net, episode = make_network(row, asked["seed"]), episode_of(row, asked["seed"])
    seconds: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        call = contender(asked["name"], net, Spec(**asked["spec"]))
        call(episode)
        seconds.append(time.perf_counter() - start)
        warmed_up(call, episode)(episode)

    peak = peak_of(run)
    return Alone(seconds[0], peak)


def peak_of(call: Callable[[], object]) -> int | None:
    """The peak bytes of memory of a call, beyond what this process held before; None if unknown."""
    before, peak_before = _kibibytes("VmRSS"), _kibibytes("VmHWM")
    forgotten = _forget_peak()
    call()
    peak = _kibibytes("VmHWM")
    if before is None or peak is None or peak_before is None or not (forgotten or peak > peak_before):
        return None
    return 1024 * max(0, peak - before)


def _kibibytes(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _forget_peak() -> bool:
    try:
        PEAK_AGAIN.write_text("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(asdict(measured(sys.stdin.read())))}\n")
