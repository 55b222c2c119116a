"""Particles: several networks that predict as one, for Bayesian MAML."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from innerloop.nets.conv4 import conv4
from innerloop.nets.mlp import mlp
from innerloop.particles import MIXTURE

__all__ = ["Mixture", "WithParticles", "conv4_with_particles", "mlp_with_particles", "with_particles"]


class Mixture(nn.Module):
    """Combines the outputs of ``M`` particles into one. It is a layer of :func:`with_particles`."""

    def __init__(self, outputs: Literal["logits", "values"]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, each: Tensor) -> Tensor:
        """Map ``[N, M, ...]`` to ``[N, ...]``."""
        if self.outputs == "values":
            return each.mean(1)
        return each.log_softmax(-1).logsumexp(1) - math.log(each.shape[1])


class WithParticles(nn.Module):
    """Several networks as one. :func:`with_particles` makes it."""

    def __init__(self, particles: list[nn.Module], outputs: Literal["logits", "values"]) -> None:
        super().__init__()
        self.particles = nn.ModuleList(particles)
        self.add_module(MIXTURE, Mixture(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch ``[N, ...]`` to the combined outputs of the particles."""
        each = torch.stack([particle(x) for particle in self.particles], 1)
        output: Tensor = self.get_submodule(MIXTURE)(each)
        return output


def with_particles(
    make: Callable[[], nn.Module], particles: int, *, outputs: Literal["logits", "values"] = "logits"
) -> nn.Module:
    r"""``M`` networks with different initial weights that predict together, for :func:`innerloop.bmaml`.

    For regression the output is the mean of the networks' outputs. For classification it is the log of the mean of
    their probabilities:

    .. math:: \log \frac{1}{M} \sum_m \mathrm{softmax}(f_{\theta_m}(x))

    Its cross-entropy is then that of the posterior predictive distribution. One particle gives the same probabilities
    as the network alone. The parameters are named ``particles.0.``, ``particles.1.`` and so on, each followed by the
    network's own names.

    Args:
        make: makes a network with initial weights of its own. It is called once for each particle.
        particles: M.
        outputs: ``logits`` for classification, ``values`` for regression.

    Returns:
        A module that is called like the networks.

    Raises:
        ValueError: less than one particle, or another value of ``outputs``.

    Example:
        >>> from innerloop.nets import conv4
        >>> net = with_particles(lambda: conv4(ways=5), particles=3)
        >>> torch.allclose(net(torch.zeros(2, 1, 28, 28)).exp().sum(1), torch.ones(2))
        True

    References:
        Yoon, Kim, Dia, Kim, Bengio, Ahn: Bayesian Model-Agnostic Meta-Learning. NeurIPS 2018, section 3.
    """
    if particles < 1:
        raise ValueError(f"particles is {particles}; there must be at least 1")
    if outputs not in ("logits", "values"):
        raise ValueError(f"outputs is {outputs!r}; choose 'logits' or 'values'")
    return WithParticles([make() for _ in range(particles)], outputs)


def mlp_with_particles(particles: int, **arguments: Any) -> nn.Module:
    """Multi-layer perceptrons for regression, with the mean as output. The other arguments are those of ``mlp``.

    Example:
        >>> mlp_with_particles(10)(torch.zeros(7, 1)).shape
        torch.Size([7, 1])
    """
    return with_particles(lambda: mlp(**arguments), particles, outputs="values")


def conv4_with_particles(particles: int, **arguments: Any) -> nn.Module:
    """Convolutional networks with averaged probabilities. The other arguments are those of ``conv4``.

    Example:
        >>> conv4_with_particles(5, ways=3)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 3])
    """
    return with_particles(lambda: conv4(**arguments), particles)
