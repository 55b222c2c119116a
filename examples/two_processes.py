"""Meta-training in two processes, compared with one process that has all tasks.

    python examples/two_processes.py [ITERATIONS]
    torchrun --nproc-per-node 2 examples/two_processes.py [ITERATIONS]

Each process takes its share of the tasks of every meta-batch. The processes average their meta-gradients and take the
same step. So the result is that of one process, up to rounding.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.functional import mse_loss

import innerloop as il


def train(iterations: int) -> dict[str, Tensor]:
    """Train on this process's share of the tasks. Without a process group, on all of them."""
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)  # every process starts with the same weights
    net, method = il.nets.mlp(), il.maml(inner_lr=0.01)
    engine, optimizer = il.Engine(net, mse_loss), torch.optim.SGD(net.parameters(), lr=0.01)
    tasks = il.data.sinusoids().episodes(tasks=8)
    for iteration in range(iterations):
        episode = tasks(torch.Generator().manual_seed(iteration))  # the same in every process
        share = episode.tasks // size
        shard = episode[rank * share : (rank + 1) * share]
        grads, _ = engine.meta_gradient(method, shard)
        for name, parameter in net.named_parameters():
            if size > 1:
                dist.all_reduce(grads[name])  # the sum over processes
            parameter.grad = grads[name] / size
        optimizer.step()
    return {name: p.detach() for name, p in net.named_parameters()}


def compare(iterations: int) -> None:
    """Train in this process group, and say in its first process how far one process alone is from the result."""
    together, rank, size = train(iterations), dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    if rank == 0:
        alone = train(iterations)
        difference = max(float((together[name] - alone[name]).abs().max()) for name in alone)
        print(f"{size} processes and one differ by at most {difference:.1e} in a weight")


def process(rank: int, size: int, iterations: int, folder: str) -> None:
    """One of several processes that this program started."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    compare(iterations)


def main(iterations: str = "100") -> None:
    """Train and print. A process that a launcher started takes its place among the others."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        compare(int(iterations))
    else:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(process, args=(2, int(iterations), folder), nprocs=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
