"""Write the golden run: the losses of a short training run of every registered method, in float64.

    python scripts/make_golden.py [METHOD ...]

It writes tests/run/golden/sinusoid.json. With names of methods it replaces only their numbers. A test makes the same
runs and compares, so that no number changes unnoticed. After an intended change, run this script and give the reason in
the commit.

Another processor or another release of PyTorch rounds differently, and a run may amplify the difference. So each run is
also made from inputs and weights that are changed by one unit in the last place. The run's sensitivity is the largest
relative change of any of its numbers, in units in the last place. The test allows a fixed multiple of it. If that would
allow too much, the run is refused and must be made better conditioned. This is why the outer step is plain gradient
descent: where a gradient is zero except for rounding, Adam turns the rounding error into a full step.
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
from innerloop.inner.starts import NearestNeighbours
from innerloop.methods.base import CARDS

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
UNIT = 2.0**-52
"""One unit in the last place of a float64 near 1."""
DRAWS = 8
"""Perturbed runs for each method."""


def run(name: str, perturbed: int = 0) -> dict[str, list[float]]:
    """The losses of each iteration of one method, then those after each step on new tasks.

    Args:
        name: the name of the method.
        perturbed: 0 for the run itself. Another number is a seed: each input and weight is changed by one unit in the
            last place, up, down or not at all.
    """
    noise = torch.Generator().manual_seed(perturbed)

    def nudged(t: Tensor) -> Tensor:
        signs = torch.randint(-1, 2, t.shape, generator=noise, dtype=t.dtype)
        return t * (1 + UNIT * signs) if perturbed else t

    make = il.METHODS[name]
    method = make(**{key: value for key, value in ARGUMENTS.items() if key in inspect.signature(make).parameters})
    torch.manual_seed(0)
    start = method.test.start
    signs = getattr(start, "of_classes", False)  # it refuses regression, and learns the sign instead
    net = il.nets.mlp(outputs=2 if signs else 1, hidden=(16, 16))
    if isinstance(start, NearestNeighbours):
        net[-1] = il.nets.Neighbours(16, 2)
    if CARDS[name].network == "with_particles":
        net = il.nets.mlp_with_particles(3, hidden=(16, 16))
    net = net.double()
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(nudged(param))
    sampler = il.data.sinusoids().episodes(shots=6, queries=8, tasks=4)

    def double(generator: torch.Generator) -> il.Episode:
        episode = sampler(generator).map(Tensor.double)
        if not signs:
            return episode.map(nudged)
        classes = ((y[..., 0] > 0).long() for y in (episode.support_y, episode.query_y))
        return il.Episode(nudged(episode.support_x), next(classes), nudged(episode.query_x), next(classes))

    loss_fn = F.cross_entropy if signs else F.mse_loss
    trainer = il.MetaTrainer(net, method, lambda params: torch.optim.SGD(params, 0.02), loss_fn=loss_fn)
    query, support = [], []
    for iteration in range(ITERATIONS):
        generator = torch.Generator().manual_seed(iteration)
        info = trainer.step(double(generator), generator)
        query.append(float(info.loss.mean()))  # type: ignore[union-attr]
        if method.adaptation.steps:
            support.append(float(info.support_losses.mean()))
    inner = {"support": support} if support else {}
    return {"query": query, **inner, "new tasks": trainer.evaluate(double, tasks=8).per_step}


def sensitivity(name: str, losses: dict[str, list[float]]) -> float:
    """The largest relative change of any loss, in units in the last place, over :data:`DRAWS` perturbed runs."""
    others = [run(name, perturbed) for perturbed in range(1, 1 + DRAWS)]
    return max(
        abs(b - a) / abs(a) / UNIT
        for other in others
        for part in losses
        for a, b in zip(losses[part], other[part], strict=True)
    )


def main(*names: str) -> None:
    """Run the named methods, or every method, and write the file."""
    torch.set_num_threads(1)
    losses = {name: run(name) for name in names or il.METHODS}
    found = {name: float(f"{sensitivity(name, numbers):.3g}") for name, numbers in losses.items()}
    kept = json.loads(OUT.read_text()) if names else {"sensitivity": {}, "losses": {}}
    golden = {
        "made_by": "scripts/make_golden.py",
        "torch": torch.__version__,
        "hardware": f"{platform.machine()} CPU, {_processor()}, one thread",
        **{key: kept[key] for key in ("torch", "hardware") if key in kept},
        "sensitivity": dict(sorted({**kept["sensitivity"], **found}.items())),
        "losses": dict(sorted({**kept["losses"], **losses}.items())),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(golden, indent=1) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


if __name__ == "__main__":
    main(*sys.argv[1:])
