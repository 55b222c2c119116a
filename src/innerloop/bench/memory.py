"""Peak memory of one contender, alone in a process of its own: ``python -m innerloop.bench.memory``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from innerloop.bench.contenders import contender, warmed_up
from innerloop.bench.peers import Spec
from innerloop.bench.rows import Row, Sizes, episode_of, make_network

__all__ = ["peak_memory", "peak_of"]

STATUS = Path("/proc/self/status")
PEAK_AGAIN = Path("/proc/self/clear_refs")  # writing 5 there has the kernel forget the peak so far


def peak_memory(name: str, row: Row, spec: Spec, *, threads: int, seed: int) -> int | None:
    """Bytes that a contender's meta-gradients need at their peak, beyond what the process had just before the first.

    The process is new and has one contender, so that neither another one's memory nor what an allocator kept is
    counted. It calls the contender once more after its first calls, since what these set up may change how it runs.

    Args:
        name: which contender.
        row: the network and the sizes.
        spec: what is computed.
        threads: threads of torch.
        seed: of the network and the images.

    Returns:
        None where it cannot be known: not on Linux, or the process failed, for lack of memory perhaps.
    """
    question = {
        "name": name,
        "network": row.network,
        "sizes": asdict(row.sizes),
        "spec": asdict(spec),
        "threads": threads,
        "seed": seed,
    }
    command = [sys.executable, "-W", "ignore", "-m", "innerloop.bench.memory"]
    done = subprocess.run(command, input=json.dumps(question), capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return None
    return int(answer) if isinstance(answer, int) else None


def measured(question: str) -> int | None:
    """The answer to :func:`peak_memory`'s question, within the process of its own."""
    asked = json.loads(question)
    torch.set_num_threads(asked["threads"])
    row = Row(asked["network"], Sizes(**asked["sizes"]))
    call = contender(asked["name"], make_network(row, asked["seed"]), Spec(**asked["spec"]))
    episode = episode_of(row, asked["seed"])

    return peak_of(lambda: warmed_up(call, episode)(episode))


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
    sys.stdout.write(f"{json.dumps(measured(sys.stdin.read()))}\n")
