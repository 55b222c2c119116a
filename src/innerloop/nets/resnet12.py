"""ResNet-12, the residual network with twelve convolutions of the few-shot literature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResNet12", "resnet12"]

SLOPE = 0.1
"""The slope of LeakyReLU below zero."""


class _Block(nn.Module):
    """Three convolutions beside a shortcut of one convolution, then 2x2 max-pooling."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(before, width, 3), _norm(width)
        self.conv2, self.norm2 = _convolution(width, width, 3), _norm(width)
        self.conv3, self.norm3 = _convolution(width, width, 3), _norm(width)
        self.shortcut, self.shortcut_norm = _convolution(before, width, 1), _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, before, H, W]`` to ``[N, width, H // 2, W // 2]``."""
        y = F.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        y = F.leaky_relu(self.norm2(self.conv2(y)), SLOPE)
        y = self.norm3(self.conv3(y)) + self.shortcut_norm(self.shortcut(x))
        return F.max_pool2d(F.leaky_relu(y, SLOPE), 2)


class ResNet12(nn.Module):
    """Four residual blocks, the mean over pixels, and a linear head. :func:`resnet12` makes it."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, channels, size, size]`` to logits ``[N, ways]``."""
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


def resnet12(ways: int, *, channels: int = 3, widths: Sequence[int] = (64, 160, 320, 640)) -> nn.Module:
    """ResNet-12: four blocks of three 3x3 convolutions, and a linear head.

    Each convolution has batch norm (batch statistics) and LeakyReLU of slope 0.1. Each block ends with 2x2 max-pooling.
    The widths are those of MetaOptNet, whose DropBlock and dropout are left out. As in ``conv4``, the convolutions have
    no bias, because batch statistics would cancel it.

    Args:
        ways: the number of classes.
        channels: the number of channels of the images.
        widths: the number of filters of each block. ``(64, 128, 256, 512)`` is the other usual choice.

    Returns:
        A module from images ``[N, channels, size, size]``, of at least 16 pixels a side with four blocks, to logits
        ``[N, ways]``.

    Raises:
        ValueError: fewer than two ways, or a width below 1.

    Example:
        >>> import torch
        >>> resnet12(5, widths=(4, 6, 8, 10))(torch.zeros(2, 3, 84, 84)).shape
        torch.Size([2, 5])

    References:
        Lee, Maji, Ravichandran, Soatto: Meta-Learning with Differentiable Convex Optimization. CVPR 2019, section 4.1.
    """
    if ways < 2:
        raise ValueError(f"ways is {ways}; a classifier needs at least 2")
    if not widths or min(widths) < 1 or channels < 1:
        raise ValueError(f"channels is {channels} and the widths are {tuple(widths)}; each must be 1 or more")
    blocks = [_Block(before, width) for before, width in pairwise((channels, *widths))]
    return ResNet12(nn.Sequential(*blocks), nn.Linear(widths[-1], ways))


def _convolution(before: int, width: int, size: int) -> nn.Module:
    convolution = nn.Conv2d(before, width, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")
    return convolution


def _norm(width: int) -> nn.Module:
    return nn.BatchNorm2d(width, track_running_stats=False)
