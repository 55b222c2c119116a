"""Learn to fit a new sinusoid from ten points.

    python examples/sinusoids.py [ITERATIONS]

MAML trains the initial weights of a small network on sinusoids of random amplitudes and phases. A few gradient steps on
ten points of a new one then fit the whole curve. This prints the error after each step, and beside it that of a network
with random weights.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F

import innerloop as il


# %% Training, beside random weights
def errors(iterations: int = 2000) -> tuple[il.Evaluation, il.Evaluation]:
    """Train, and return the evaluations of the trained and of a new network on the same new tasks."""
    torch.manual_seed(0)
    tasks = il.data.sinusoids().episodes(shots=10, queries=10, tasks=25)
    method = il.maml(inner_lr=0.01, test_steps=5)

    def trainer() -> il.MetaTrainer:
        return il.MetaTrainer(il.nets.mlp(), method, lambda p: torch.optim.Adam(p, lr=1e-3), loss_fn=F.mse_loss)

    untrained, trained = trainer(), trainer()
    trained.fit(tasks, iterations)
    return trained.evaluate(tasks, tasks=200), untrained.evaluate(tasks, tasks=200)


# %% The error after each step
def main(iterations: int = 2000) -> None:
    """Print both."""
    trained, untrained = errors(iterations)
    print("step  meta-learned  random weights   (mean squared error on 200 new sinusoids)")
    for step, (ours, other) in enumerate(zip(trained.loss.mean(0), untrained.loss.mean(0), strict=True)):
        print(f"{step:4}  {float(ours):12.3f}  {float(other):14.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
