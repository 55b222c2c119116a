"""The first call and the peak memory of one contender, alone in a new process: ``python -m innerloop.bench.alone``."""

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
PEAK_AGAIN = Path("/proc/self/clear_refs")  # writing 5 there has the kernel forget the peak so far


@dataclass(frozen=True)
class Alone:
    """What one contender needs in a process of its own.

    Attributes:
        first_call: the seconds until the first meta-gradient is there, from an untouched network, imports excluded.
        peak_memory: the bytes that its meta-gradients need at their peak, beyond what the process had before the first;
            None where it cannot be known, as on other systems than Linux.
    """

    first_call: float
    peak_memory: int | None


def alone(name: str, row: Row, spec: Spec, *, threads: int, seed: int) -> Alone | None:
    """Measure a contender in a new process, where neither another one's memory nor a warm allocator counts.

    The process calls the contender once more after its first calls, since what these set up may change how it runs.

    Args:
        name: which contender.
        row: the network and the sizes.
        spec: what is computed.
        threads: threads of torch.
        seed: of the network and the images.

    Returns:
        None if the process failed, for lack of memory perhaps.
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
    """The answer to :func:`alone`'s question, within the process of its own."""
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
    """Bytes of memory that a call needs at its peak, beyond what this process held before; None where unknown."""
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
