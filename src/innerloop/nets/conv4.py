"""The four-layer convolutional network of the few-shot literature, in its published variants."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["Conv4", "conv4"]


class Conv4(nn.Module):
    """Four blocks of convolution, batch norm and ReLU, and a linear head. :func:`conv4` makes it."""

    def __init__(self, body: nn.Module, head: nn.Linear, pool: Literal["mean", "flatten"]) -> None:
        super().__init__()
        self.body, self.head, self.pool = body, head, pool

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, channels, size, size]`` to logits ``[N, ways]``."""
        features = self.body(x)
        logits: Tensor = self.head(features.mean((2, 3)) if self.pool == "mean" else features.flatten(1))
        return logits


def conv4(
    ways: int,
    *,
    channels: int = 1,
    size: int = 28,
    filters: int = 64,
    downsample: Literal["stride", "maxpool"] = "stride",
    pool: Literal["mean", "flatten"] = "mean",
    head_std: float | None = None,
) -> nn.Module:
    """Four 3x3 convolutions, each with batch norm (batch statistics) and ReLU, and a linear head.

    Each block halves the image. ``stride`` does so by strided convolutions, as for Omniglot in MAML (with
    ``pool="mean"``) and in Reptile (with ``pool="flatten"``). ``maxpool`` does so by 2x2 max-pooling, as for
    mini-ImageNet. The convolutions have no bias, because batch statistics would cancel it and its gradient would be
    zero.

    Args:
        ways: the number of classes.
        channels: the number of channels of the images.
        size: the height and width of the images, in pixels.
        filters: the number of filters of each convolution.
        downsample: ``stride`` or ``maxpool``.
        pool: whether the head takes the spatial mean of the features (``mean``) or all features (``flatten``).
        head_std: the standard deviation of the normal distribution of the head's initial weights; the head's bias then
            begins at zero. None uses PyTorch's default. The original code of MAML uses 1 with ``pool="mean"``.

    Returns:
        A module from images ``[N, channels, size, size]`` to logits ``[N, ways]``.

    Raises:
        ValueError: fewer than two ways, an image too small to be halved four times, or an unknown option.

    Example:
        >>> import torch
        >>> conv4(ways=5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    if ways < 2:
        raise ValueError(f"ways is {ways}; a classifier needs at least 2")
    if downsample not in ("stride", "maxpool") or pool not in ("mean", "flatten"):
        raise ValueError(
            f"downsample is {downsample!r} and pool is {pool!r}; choose 'stride' or 'maxpool', and 'mean' or 'flatten'"
        )
    blocks: list[nn.Module] = []
    side, width, stride = size, channels, 2 if downsample == "stride" else 1
    for _ in range(4):
        block = nn.Sequential()
        block.add_module("conv", nn.Conv2d(width, filters, 3, stride, padding=1, bias=False))
        block.add_module("norm", nn.BatchNorm2d(filters, track_running_stats=False))
        block.add_module("relu", nn.ReLU())
        if downsample == "maxpool":
            block.add_module("pool", nn.MaxPool2d(2))
        blocks.append(block)
        side, width = (side + 1) // 2 if downsample == "stride" else side // 2, filters
    if side < 1:
        raise ValueError(f"size is {size}; it must be at least 16 to be halved four times by max-pooling")
    head = nn.Linear(filters if pool == "mean" else filters * side * side, ways)
    if head_std is not None:
        nn.init.normal_(head.weight, std=head_std)
        nn.init.zeros_(head.bias)
    return Conv4(nn.Sequential(*blocks), head, pool)
