"""The arithmetic of a meta-gradient, and the rate at which the machine does arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from innerloop.bench.peers import What
from innerloop.bench.rows import Sizes
from innerloop.bench.timing import CLOCKS, Clock

__all__ = ["forward_flops", "matmul_rate", "meta_gradient_flops"]

_SUPPORT: dict[What, int] = {"maml": 9, "fomaml": 3, "reptile": 3}
_QUERY: dict[What, int] = {"maml": 3, "fomaml": 3, "reptile": 0}


def forward_flops(net: nn.Module, images: Tensor) -> int:
    """The floating-point operations per image of the network's convolutions and linear layers.

    They are counted in a forward pass on ``images [N, ...]``. A multiplication and an addition count as two operations.
    Everything else in the network is left out.

    Example:
        >>> forward_flops(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(4, 3))
        50
    """
    flops = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal flops
        assert isinstance(module.weight, Tensor)
        flops += 2 * output.numel() * module.weight[0].numel()

    hooks = [
        module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            net(images)
    finally:
        for hook in hooks:
            hook.remove()
    return flops // len(images)


def meta_gradient_flops(what: What, sizes: Sizes, forward: int) -> int:
    """The operations of one meta-gradient. ``forward`` are the operations of one image's forward pass.

    A backward pass costs two forward passes. An exact inner step is a forward pass, a backward pass, and a backward
    pass through both. In all it costs 9 forward passes. A first-order inner step costs 3, and so does the query loss.

    Example:
        >>> meta_gradient_flops("maml", Sizes(tasks=2, ways=5, shots=1, queries=3, steps=4), forward=10)
        4500
    """
    support = sizes.ways * sizes.shots * sizes.steps
    return sizes.tasks * forward * (_SUPPORT[what] * support + _QUERY[what] * sizes.ways * sizes.queries)


def matmul_rate(size: int = 1024, repeats: int = 7, clock: Clock = "wall") -> float:
    """The operations per second of ``torch.mm`` on square float32 matrices. The best of ``repeats`` counts."""
    a, b, out = torch.rand(size, size), torch.rand(size, size), torch.empty(size, size)
    torch.mm(a, b, out=out)
    seconds: list[float] = []
    now = CLOCKS[clock]
    for _ in range(repeats):
        start = now()
        torch.mm(a, b, out=out)
        seconds.append(now() - start)
    return 2 * size**3 / min(seconds)
