"""Any network with warp layers, for T-Net and WarpGrad."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from innerloop.nets.conv4 import conv4
from innerloop.nets.mlp import mlp

__all__ = ["Residual", "Warp", "Warped", "conv4_with_warps", "mlp_with_warps", "with_warps"]

Warp = Literal["linear", "residual"]
"""A square matrix over the features (T-Net), or a non-linear layer beside an identity (in the manner of WarpGrad)."""

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Warped(nn.Module):
    """A layer and the warp layer after it; made by :func:`with_warps`."""

    def __init__(self, layer: nn.Module, warp: nn.Module) -> None:
        super().__init__()
        self.layer, self.warp = layer, warp

    def forward(self, x: Tensor) -> Tensor:
        """What the warp layer makes of what the layer makes of ``x``."""
        output: Tensor = self.warp(self.layer(x))
        return output


class Residual(nn.Module):
    """``h + layer(relu(h))``; made by :func:`with_warps`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor) -> Tensor:
        """Features to features of the same shape."""
        output: Tensor = h + self.layer(h.relu())
        return output


def with_warps(net: nn.Module, warp: Warp = "linear", *, at: str = "*") -> nn.Module:
    r"""A copy of a network with a warp layer after each of its linear and convolutional layers, the identity at first.

    A layer ``head`` becomes ``head.layer``, followed by ``head.warp``. An inner loop that leaves the warp layers alone
    (``adapt="* !*warp.*"``, as :func:`innerloop.t_net` has it) changes the layers before them, through them: the warp
    layers decide what a step of gradient descent does to the features.

    - ``linear``: :math:`h \leftarrow T h`, with a square matrix T over the features or channels (T-Net).
    - ``residual``: :math:`h \leftarrow h + W \max(0, h)`, with W a matrix, or a convolution with kernels of size 3.

    Args:
        net: the network, which is left as it is.
        warp: the kind of warp layers.
        at: name patterns, separated by spaces, of the layers that get one.

    Returns:
        A module that is called as the network is, and gives the same until the warp layers have learned something.

    Raises:
        ValueError: an unknown kind, or no linear or convolutional layer of such a name.

    Example:
        >>> from innerloop.nets import mlp
        >>> net, x = mlp(hidden=(4,)), torch.randn(5, 1)
        >>> warped = with_warps(net)
        >>> [name for name, _ in warped.named_parameters()]
        ['0.layer.weight', '0.layer.bias', '0.warp.weight', '2.layer.weight', '2.layer.bias', '2.warp.weight']
        >>> torch.equal(warped(x), net(x))
        True

    References:
        Lee, Choi: Gradient-Based Meta-Learning with Learned Layerwise Metric and Subspace. ICML 2018, section 4.1.
        Flennerhag et al.: Meta-Learning with Warped Gradient Descent. ICLR 2020, section 2.
    """
    if warp not in get_args(Warp):
        raise ValueError(f"warp is {warp!r}; choose one of {', '.join(map(repr, get_args(Warp)))}")
    patterns, made = at.split(), dict[nn.Module, nn.Module]()
    result = copy.deepcopy(net)
    for name, layer in list(result.named_modules(remove_duplicate=False)):
        if type(layer) not in _KINDS or not any(fnmatchcase(name, pattern) for pattern in patterns):
            continue
        made[layer] = made.get(layer) or Warped(layer, _warp_after(layer, warp))
        if not name:
            return made[layer]
        parent, _, child = name.rpartition(".")
        setattr(result.get_submodule(parent), child, made[layer])
    if not made:
        raise ValueError(f"the patterns {at!r} match no linear or convolutional layer of {type(net).__name__}")
    return result


def _warp_after(layer: nn.Module, warp: Warp) -> nn.Module:
    """The identity on what a layer gives."""
    weight = cast(Tensor, layer.weight)
    width, size = len(weight), 1 if warp == "linear" else 3
    made = (
        nn.Linear(width, width, bias=False)
        if isinstance(layer, nn.Linear)
        else type(layer)(width, width, size, padding=size // 2, bias=False)
    )
    start = cast(Tensor, made.weight)
    with torch.no_grad():
        start.copy_(torch.eye(width).reshape(start.shape) if warp == "linear" else torch.zeros(()))
    return (made if warp == "linear" else Residual(made)).to(weight)


def mlp_with_warps(warp: Warp = "linear", **arguments: Any) -> nn.Module:
    """A multi-layer perceptron with warp layers; other arguments as for ``mlp``.

    Example:
        >>> mlp_with_warps()(torch.zeros(10, 1)).shape
        torch.Size([10, 1])
    """
    return with_warps(mlp(**arguments), warp)


def conv4_with_warps(warp: Warp = "linear", **arguments: Any) -> nn.Module:
    """The convolutional network with warp layers, before each batch norm and after the head; other arguments as there.

    Example:
        >>> conv4_with_warps(ways=5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    return with_warps(conv4(**arguments), warp)
