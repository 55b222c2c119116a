"""The report as text: a heading with versions and machine, and a table for each row."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from innerloop.bench.contenders import OURS
from innerloop.bench.peers import PEERS
from innerloop.bench.rows import Row, Sizes

__all__ = ["heading", "machine", "table", "throughput_lines", "versions"]


def versions() -> dict[str, str]:
    """The versions of Python, torch, innerloop and every installed peer."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in (OURS, *PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, the number of threads that all contenders use, and the load of the machine."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"cpu": _cpu(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "load": load}


def _cpu() -> str:
    try:
        found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine() or "unknown"


def heading(used: Mapping[str, str], where: Mapping[str, Any], missing: Mapping[str, str]) -> Iterator[str]:
    """The lines before the tables: versions, machine, and missing contenders."""
    yield ", ".join(f"{name} {version}" for name, version in used.items())
    load = "" if where["load"] is None else f", load {where['load']:.1f}"
    yield f"{where['cpu']}, {where['cpus']} CPUs, {where['threads']} threads{load}"
    for name, reason in missing.items():
        yield f"{name} is left out: {reason}"


def table(row: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one row: one for each contender, the fastest first, and a summary."""
    yield ""
    yield f"{Row(row['network'], Sizes(**row['sizes']))}, inner learning rate {row['inner_lr']}"
    yield (
        f"  {'':22}{'steady, s':>10}{'to innerloop':>14}{'of matmul':>11}{'first call, s':>15}{'peak memory':>13}"
        f"{'differs: float64':>18}{'float32':>9}"
    )
    seconds = row["seconds"]
    for name in sorted(seconds, key=seconds.__getitem__):
        share = row["flops"] / seconds[name] / row["matmul_rate"]
        line = f"  {name:22}{seconds[name]:10.3f}{row['ratio_to_innerloop'][name]:14.2f}{100 * share:9.0f} %"
        line += f"{_seconds(row['first_call'].get(name)) if row['first_call'] else '-':>15}"
        line += f"{_mebibytes(row['peak_memory'].get(name)) if row['peak_memory'] else '-':>13}"
        if name != OURS:
            double, single = (row["relative_difference"][dtype][name] for dtype in ("float64", "float32"))
            line += f"{double:18.1e}{single:9.1e}"
        yield line
    for name, reason in row["left_out"].items():
        yield f"  {name} is left out: {reason}"
    if row["fastest_peer"] is not None:
        yield f"  {OURS}: {row['times_fastest_peer']:.2f}x the fastest peer ({row['fastest_peer']})"


def throughput_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The lines about whole training."""
    shares = ", ".join(f"{part} {100 * share:.1f} %" for part, share in result["shares"].items())
    yield ""
    yield f"training on {result['dataset']}, {Row(result['network'], Sizes(**result['sizes']))}"
    yield (
        f"  {result['tasks_per_second']:.1f} tasks a second, "
        f"{100 * result['fraction_of_matmul_rate']:.0f} % of the rate of a matrix product"
    )
    yield f"  {shares}"


def _seconds(time: float | None) -> str:
    return "unknown" if time is None else f"{time:.3f}"


def _mebibytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:.0f} MiB"
