"""Write the golden run: the losses of a short training run of every registered method, in float64.

    python scripts/make_golden.py [OUT]

OUT is by default tests/run/golden/sinusoid.json. A test runs the same again and compares, so that a change of any
number is seen and has to be meant; after one that is, run this script and say why in the commit.
"""

from __future__ import annotations

import inspect
import json
import platform
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import innerloop as il

OUT = Path(__file__).parents[1] / "tests" / "run" / "golden" / "sinusoid.json"
ITERATIONS = 5
ARGUMENTS = {
    "inner_lr": 0.02,
    "inner_steps": 3,
    "inner_batch": 4,
    "test_steps": 4,
    "context": "@last",
    "warps": "@last",
}
CLASSIFICATION = {"protomaml", "prototypical", "nearest_neighbour"}  # refuse regression, and learn the sign instead


def run(name: str) -> dict[str, list[float]]:
    """The losses of each iteration of one method, then those after each step on new tasks."""
    make = il.METHODS[name]
    method = make(**{key: value for key, value in ARGUMENTS.items() if key in inspect.signature(make).parameters})
    torch.manual_seed(0)
    signs = name in CLASSIFICATION
    net = il.nets.mlp(outputs=2 if signs else 1, hidden=(16, 16))
    if name == "nearest_neighbour":
        net[-1] = il.nets.Neighbours(16, 2)
    if name == "bmaml":
        net = il.nets.mlp_with_particles(3, hidden=(16, 16))
    net = net.double()
    sampler = il.data.sinusoids().episodes(shots=6, queries=8, tasks=4)

    def double(generator: torch.Generator) -> il.Episode:
        episode = sampler(generator).map(Tensor.double)
        if not signs:
            return episode
        classes = ((y[..., 0] > 0).long() for y in (episode.support_y, episode.query_y))
        return il.Episode(episode.support_x, next(classes), episode.query_x, next(classes))

    loss_fn = F.cross_entropy if signs else F.mse_loss
    trainer = il.MetaTrainer(net, method, lambda params: torch.optim.Adam(params, 0.01), loss_fn=loss_fn)
    query, support = [], []
    for iteration in range(ITERATIONS):
        generator = torch.Generator().manual_seed(iteration)
        info = trainer.step(double(generator), generator)
        query.append(float(info.loss.mean()))  # type: ignore[union-attr]
        if method.adaptation.steps:
            support.append(float(info.support_losses.mean()))
    inner = {"support": support} if support else {}
    return {"query": query, **inner, "new tasks": trainer.evaluate(double, tasks=8).per_step}


def main(out: Path = OUT) -> None:
    """Run every method and write the file."""
    torch.set_num_threads(1)
    golden = {
        "made_by": "scripts/make_golden.py",
        "torch": torch.__version__,
        "hardware": f"{platform.machine()} CPU, {_processor()}, one thread",
        "losses": {name: run(name) for name in sorted(il.METHODS)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(golden, indent=1) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
