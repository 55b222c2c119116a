"""Linear, attention and recurrent layers: tasks run together, one by one, and in a plain loop in PyTorch.

    python benchmarks/linear_layers.py [--rounds 5]

It computes one exact MAML meta-gradient with one inner step (or ``--steps``), after checking that all ways agree. It
uses one thread. Times are processor times, the medians of interleaved rounds. The last columns compare
``execution="auto"`` with the loop, with one by one, and with the rate of ``torch.mm`` on 1024x1024 matrices. The rate
counts the products with weights and those of attention. A support example takes 9 forward passes for each step: the
forward pass (1), the inner gradient (2), and the derivative of both (6). A query example takes 3: the forward pass (1)
and the gradient (2).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import innerloop as il
from innerloop.engine.engine import FIRST_CALLS, Engine


class Encoder(nn.Module):
    """A Transformer of two layers over sequences of vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``[N, S, width]`` to logits ``[N, 5]``."""
        return self.head(self.encoder(x).mean(1))


class Recurrent(nn.Module):
    """An LSTM over sequences of vectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(width, width, batch_first=True), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``[N, S, width]`` to logits ``[N, 5]``."""
        return self.head(self.lstm(x)[0][:, -1])


def products(net: nn.Module, shape: tuple[int, ...]) -> float:
    """The multiply-adds of one example's forward pass, in products with weights and in attention."""
    length = shape[0] if len(shape) > 1 else 1
    weights = sum(p.numel() for p in net.parameters() if p.ndim == 2)
    attention = sum(2 * length * length * m.embed_dim for m in net.modules() if isinstance(m, nn.MultiheadAttention))
    return weights * length + attention


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP, 1-40-40-1": (lambda: il.nets.mlp(outputs=5), (1,)),
    "MLP, 64-256-256-5": (lambda: il.nets.mlp(64, 5, (256, 256)), (64,)),
    "MLP, 784-512-512-5": (lambda: il.nets.mlp(784, 5, (512, 512)), (784,)),
    "Transformer, 2 layers of 32, 16 words": (lambda: Encoder(32), (16, 32)),
    "Transformer, 2 layers of 128, 16 words": (lambda: Encoder(128), (16, 128)),
    "LSTM of 32, 16 words": (lambda: Recurrent(32), (16, 32)),
    "LSTM of 128, 16 words": (lambda: Recurrent(128), (16, 128)),
}


def plain(net: nn.Module, episode: il.Episode, lr: float, steps: int) -> tuple[dict[str, Tensor], None]:
    """The same meta-gradient without a library: a loop that differentiates one task after another."""
    theta = dict(net.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in theta.items()}
    with sdpa_kernel(SDPBackend.MATH):
        for i in range(episode.tasks):
            adapted = theta
            for _ in range(steps):
                loss = F.cross_entropy(functional_call(net, adapted, (episode.support_x[i],)), episode.support_y[i])
                grads = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
                adapted = {n: p - lr * g for (n, p), g in zip(adapted.items(), grads, strict=True)}
            loss = F.cross_entropy(functional_call(net, adapted, (episode.query_x[i],)), episode.query_y[i])
            for name, grad in zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True):
                sums[name] += grad / episode.tasks
    return sums, None


def cpu_seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """The processor time of one call: the mean over ``repeats`` calls."""
    start = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - start) / repeats


def measured(name: str, tasks: int, examples: int, steps: int, rounds: int) -> list[str]:
    """One row of the table. Check that all ways to run tasks agree, then time them and a matrix product in turns."""
    make, shape = CASES[name]
    torch.manual_seed(0)
    net, a, lr = make(), torch.randn(1024, 1024), 0.01
    x, y = torch.randn(tasks, examples, *shape), torch.randint(5, (tasks, examples))
    episode, method = il.Episode(x, y, x, y), il.maml(lr, steps)
    runs: dict[str, Callable[[], tuple[dict[str, Tensor], object]]] = {"plain": partial(plain, net, episode, lr, steps)}
    ways: tuple[il.Execution, ...] = ("serial", 4, "batched", "auto")
    for execution in ways:
        runs[str(execution)] = partial(Engine(net, execution=execution).meta_gradient, method, episode)
    for run in runs.values():
        for _ in range(FIRST_CALLS):  # from then on, recordings are in use
            run()
    first, *others = (run()[0] for run in runs.values())
    for other in others:
        for key, grad in first.items():
            torch.testing.assert_close(other[key], grad, rtol=1e-3, atol=1e-5)
    repeats = max(1, round(0.2 / cpu_seconds(runs["batched"])))
    turns = [
        [*(cpu_seconds(run, repeats) for run in runs.values()), cpu_seconds(partial(torch.mm, a, a), 3)]
        for _ in range(rounds)
    ]
    *seconds, matmul = (median(column) for column in zip(*turns, strict=True))
    loop, serial, *_, auto = seconds
    rate = (9 * steps + 3) * products(net, shape) * tasks * examples / auto
    ratios = (f"{loop / auto:.2f}", f"{serial / auto:.2f}", f"{rate * matmul / 1024**3:.0%}")
    return [name, *(f"{1e3 * s:.1f}" for s in seconds), *ratios]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=16)
    parser.add_argument("--examples", type=int, default=10, help="examples of the support set, and of the query set")
    parser.add_argument("--steps", type=int, default=1, help="inner steps")
    parser.add_argument("--only", default="", help="the cases whose names contain this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = ("plain loop", "one by one", "4 together", "all together", "auto")
    print(f"| network | {' | '.join(f'{way}, ms' for way in ways)} | loop / auto | one by one / auto | of matmul |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in CASES:
        if options.only in name:
            row = measured(name, options.tasks, options.examples, options.steps, options.rounds)
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
