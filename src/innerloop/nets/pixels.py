"""A head that keeps examples instead of weights, and the network that is nothing else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Neighbours", "pixels"]


class Neighbours(nn.Module):
    r"""A head that scores a class by the nearest of its examples: :math:`-\min_{s \in c} \lVert x - e_s \rVert^2`.

    It holds one example at zero, of every class, until a start fills in others, as many as there are; see
    :func:`innerloop.nearest_neighbour`.

    Args:
        features: features of an input.
        ways: number of classes.

    Raises:
        ValueError: fewer than one feature or class.

    Example:
        >>> Neighbours(3, ways=2)(torch.tensor([[0.0, 1.0, 2.0]]))
        tensor([[-5., -5.]], grad_fn=<AmaxBackward0>)
    """

    def __init__(self, features: int, ways: int) -> None:
        super().__init__()
        if features < 1 or ways < 1:
            raise ValueError(f"features is {features} and ways is {ways}; there must be at least 1 of each")
        self.examples = nn.Parameter(torch.zeros(1, features))
        """``[S, features]``."""
        self.members = nn.Parameter(torch.zeros(ways, 1))
        """``[ways, S]``: 0 where the example is of the class, else minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, features]`` to scores ``[N, ways]``."""
        squares = self.examples.square().sum(1) - 2 * x @ self.examples.T + x.square().sum(1, keepdim=True)
        return (self.members - squares[:, None]).amax(2)


class UnitLength(nn.Module):
    """Inputs ``[N, ...]`` as vectors ``[N, features]`` of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Scale each input; zeros stay zeros."""
        return F.normalize(x.flatten(1), dim=1)


def pixels(ways: int, *, channels: int = 1, size: int = 28) -> nn.Module:
    """Images as vectors of unit length, and a head that keeps examples, for :func:`innerloop.nearest_neighbour`.

    The nearest of them is the one of the largest cosine. Distances between the images as they are favour those with
    little ink, and are right far less often.

    Args:
        ways: number of classes.
        channels: channels of the images.
        size: height and width of the images, in pixels.

    Returns:
        A module from images ``[N, channels, size, size]`` to scores ``[N, ways]``.

    Raises:
        ValueError: fewer than one class or pixel.

    Example:
        >>> pixels(ways=5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    return nn.Sequential(UnitLength(), Neighbours(channels * size * size, ways))
