"""Predict the wear of a new machine from ten readings of its sensors.

    python examples/sensors.py [TABLE.csv] [ITERATIONS]

The table has a row for each reading, with the columns ``machine``, ``wear`` and any number of others. A machine is a
task: each turns temperature and load into wear in a way of its own. Without a table, this invents one. MAML trains
on three fifths of the machines.
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import innerloop as il


# %% A table with a row for each reading
def invented(file: Path, machines: int = 40, readings: int = 40) -> Path:
    """Write a table of machines, each with its own law of wear."""
    draw = random.Random(0)
    with file.open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["machine", "temperature", "load", "oil", "wear"])
        for machine in range(machines):
            heat, weight, thick = draw.uniform(-1, 1), draw.uniform(-1, 1), draw.uniform(-1, 1)
            for _ in range(readings):
                temperature, load, oil = draw.gauss(60, 15), draw.uniform(0, 1), draw.choice(["thin", "thick"])
                wear = heat * (temperature - 60) / 15 + weight * (2 * load - 1) + thick * (oil == "thick")
                table.writerow([f"m{machine}", f"{temperature:.1f}", f"{load:.3f}", oil, f"{wear:.4f}"])
    return file


# %% Training on three fifths of the machines
def train(file: Path, iterations: int) -> tuple[il.Evaluation, il.Learner]:
    """Train, and return the evaluation on new machines and the learner."""
    torch.manual_seed(0)
    data, held_out = (il.data.from_table(file, split, task="machine", target="wear") for split in ("train", "test"))
    net = il.nets.mlp(inputs=data.preprocessing.shape[0])
    method = il.maml(inner_lr=0.05, inner_steps=3)
    trainer = il.MetaTrainer(net, method, lambda p: torch.optim.Adam(p, lr=1e-3), loss_fn=F.mse_loss)
    trainer.fit(data.episodes(shots=10, queries=20, tasks=8), iterations)
    result = trainer.evaluate(held_out.episodes(shots=10, queries=20, tasks=8), tasks=80)
    return result, trainer.learner(preprocessing=data.preprocessing)


# %% New machines
def main(table: str = "", iterations: str = "1000") -> None:
    """Train, and print the error before and after each step on machines that training has not seen."""
    with tempfile.TemporaryDirectory() as place:
        result, learner = train(Path(table) if table else invented(Path(place) / "sensors.csv"), int(iterations))
    print("mean squared error on new machines, as a share of the variance of wear:")
    print("  ".join(f"step {step}: {float(loss):.3f}" for step, loss in enumerate(result.loss.mean(0))))
    if not table:
        readings = {"temperature": [45, 75, 60, 60], "load": [0.5, 0.5, 0.1, 0.9], "oil": ["thin"] * 4}
        predictor = learner.adapt(readings, [-0.8, 0.8, 0.4, -0.4])  # wears by heat, and less under load
        print("a machine after four readings, at 80 degrees:", predictor.predict({**readings, "temperature": [80] * 4}))


if __name__ == "__main__":
    main(*sys.argv[1:])
