"""Warp layers for any network, for T-Net and WarpGrad."""

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
"""The kind of a warp layer: a square matrix over the features (``linear``, T-Net), or a non-linear layer beside an
identity (``residual``, in the manner of WarpGrad)."""

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Warped(nn.Module):
    """A layer, followed by its warp layer. :func:`with_warps` makes it."""

    def __init__(self, layer: nn.Module, warp: nn.Module) -> None:
        super().__init__()
        self.layer, self.warp = layer, warp

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, then the warp layer."""
        output: Tensor = self.warp(self.layer(x))
        return output


class Residual(nn.Module):
    """``h + layer(relu(h))``. :func:`with_warps` makes it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, h: Tensor) -> Tensor:
        """Map features to features of the same shape."""
        output: Tensor = h + self.layer(h.relu())
        return output


def with_warps(net: nn.Module, warp: Warp = "linear", *, at: str = "*") -> nn.Module:
    r"""A copy of a network with a warp layer after each linear and convolutional layer.

    Every warp layer is the identity at first. A layer ``head`` becomes ``head.layer``, followed by ``head.warp``. The
    inner loop should not adapt the warp layers: ``adapt="* !*warp.*"``, as :func:`innerloop.t_net` has it. It then
    differentiates through them, so they shape what a step of gradient descent does to the features.

    - ``linear``: :math:`h \leftarrow T h`, with a square matrix T over the features or channels (T-Net).
    - ``residual``: :math:`h \leftarrow h + W \max(0, h)`, with W a matrix, or a convolution with kernels of size 3.

    Args:
        net: the network. It is not changed.
        warp: the kind of the warp layers.
        at: name patterns of the layers that get a warp layer, separated by spaces.

    Returns:
        A module that is called like the network. It gives the same outputs until the warp layers have learned.

    Raises:
        ValueError: an unknown kind, or patterns that match no linear or convolutional layer.

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
    """A warp layer for the output of a layer. It begins as the identity."""
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
    """A multi-layer perceptron with warp layers. The other arguments are those of ``mlp``.

    Example:
        >>> mlp_with_warps()(torch.zeros(10, 1)).shape
        torch.Size([10, 1])
    """
    return with_warps(mlp(**arguments), warp)


def conv4_with_warps(warp: Warp = "linear", **arguments: Any) -> nn.Module:
    """A ``conv4`` with warp layers before each batch norm and after the head. Other arguments are those of ``conv4``.

    Example:
        >>> conv4_with_warps(ways=5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    return with_warps(conv4(**arguments), warp)
