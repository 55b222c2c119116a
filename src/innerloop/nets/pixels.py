"""A head that stores examples in place of weights, and a network that consists only of such a head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Neighbours", "pixels"]


class Neighbours(nn.Module):
    r"""A head that scores a class by its nearest stored example: :math:`-\min_{s \in c} \lVert x - e_s \rVert^2`.

    At first it stores a single example, of zeros, which counts for every class. A start replaces it by any number of
    examples; see :func:`innerloop.nearest_neighbour`.

    Args:
        features: the number of features of an input.
        ways: the number of classes.

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
        """The stored examples, ``[S, features]``."""
        self.members = nn.Parameter(torch.zeros(ways, 1))
        """The classes of the examples, ``[ways, S]``: 0 if the example is of the class, otherwise minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[N, features]`` to scores ``[N, ways]``."""
        squares = self.examples.square().sum(1) - 2 * x @ self.examples.T + x.square().sum(1, keepdim=True)
        return (self.members - squares[:, None]).amax(2)


class UnitLength(nn.Module):
    """Turns inputs ``[N, ...]`` into vectors ``[N, features]`` of length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten and scale each input. An input of zeros stays zero."""
        return F.normalize(x.flatten(1), dim=1)


def pixels(ways: int, *, channels: int = 1, size: int = 28) -> nn.Module:
    """Images as vectors of unit length, and a head that stores examples, for :func:`innerloop.nearest_neighbour`.

    The nearest example is then the one with the largest cosine similarity. Plain distances between images favour images
    with little ink, and predict correctly far less often.

    Args:
        ways: the number of classes.
        channels: the number of channels of the images.
        size: the height and width of the images, in pixels.

    Returns:
        A module from images ``[N, channels, size, size]`` to scores ``[N, ways]``.

    Raises:
        ValueError: fewer than one class or pixel.

    Example:
        >>> pixels(ways=5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    return nn.Sequential(UnitLength(), Neighbours(channels * size * size, ways))
