"""How much arithmetic a meta-gradient takes, and how much of it the machine could do in that time."""

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
    """Floating-point operations of the network's convolutions and linear layers on ``images [N, ...]``, per image.

    A multiplication and an addition count as two; everything else in the network is left out.

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
    """Operations of one meta-gradient, from those of one image's forward pass.

    A backward pass costs two forward passes. An exact inner step is a forward pass, a backward pass, and a backward
    pass through both: 9 forward passes in all. A first-order one costs 3, and so does the query loss.

    Example:
        >>> meta_gradient_flops("maml", Sizes(tasks=2, ways=5, shots=1, queries=3, steps=4), forward=10)
        4500
    """
    support = sizes.ways * sizes.shots * sizes.steps
    return sizes.tasks * forward * (_SUPPORT[what] * support + _QUERY[what] * sizes.ways * sizes.queries)


def matmul_rate(size: int = 1024, repeats: int = 7, clock: Clock = "wall") -> float:
    """Operations per second of ``torch.mm`` on square float32 matrices, the best of several."""
    a, b, out = torch.rand(size, size), torch.rand(size, size), torch.empty(size, size)
    torch.mm(a, b, out=out)
    seconds: list[float] = []
    now = CLOCKS[clock]
    for _ in range(repeats):
        start = now()
        torch.mm(a, b, out=out)
        seconds.append(now() - start)
    return 2 * size**3 / min(seconds)
