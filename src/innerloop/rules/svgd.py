"""Stein variational gradient descent: particles follow their losses together and repel each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from innerloop.params import Params
from innerloop.particles import by_particle
from innerloop.parts import Part
from innerloop.rules._checks import check_at_least
from innerloop.rules.base import RuleState
from innerloop.rules.sgd import SGD

__all__ = ["SVGD", "svgd"]


@dataclass(frozen=True, repr=False)
class SVGD(Part):
    r"""Stein variational gradient descent of the particles made by :func:`innerloop.nets.with_particles`.

    .. math:: \theta_i \leftarrow \theta_i - \frac{\alpha}{M} \sum_j \Big( k_{ij} \, \nabla L(\theta_j) -
              \rho \, \nabla_{\theta_j} k_{ij} \Big), \qquad
              k_{ij} = \exp\Big(\!-\frac{\lVert\theta_i - \theta_j\rVert^2}{h}\Big), \qquad h = \frac{d}{\log M}

    Here d is the median of the squared distances between two particles. The first term moves each particle by the
    gradients of the particles near it. The second term drives the particles apart. A single particle takes a step of
    gradient descent, and a network without particles is one particle.

    The rule expects the gradient of the mean of the particles' losses, which
    :func:`innerloop.inner.losses.each_particle` gives.

    Args:
        lr: the inner learning rate α.
        repulsion: ρ, the temperature. The particles spread over :math:`\exp(-L / \rho)`. If L is the mean negative
            log-likelihood of S examples, ρ = 1 / S gives the posterior.
        weight_decay: λ. It adds λθ to each particle's gradient, which is the prior N(0, ρ/λ).

    Raises:
        ValueError: a negative number; when used, particles that do not all have the same adapted parameters.

    Example:
        >>> rule = svgd(0.5)
        >>> params = {"particles.0.w": torch.tensor(0.0), "particles.1.w": torch.tensor(1.0)}
        >>> level = {name: torch.tensor(0.0) for name in params}
        >>> apart, _ = rule.step(params, level, rule.init(params, {}))
        >>> {name: round(float(w), 3) for name, w in apart.items()}
        {'particles.0.w': -0.173, 'particles.1.w': 1.173}

    References:
        Liu, Wang: Stein Variational Gradient Descent. NeurIPS 2016, algorithm 1 and section 5 (bandwidth). Yoon, Kim,
        Dia, Kim, Bengio, Ahn: Bayesian Model-Agnostic Meta-Learning. NeurIPS 2018, section 2.
    """

    lr: float
    _: KW_ONLY
    repulsion: float = 1.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_at_least(0.0, lr=self.lr, repulsion=self.repulsion, weight_decay=self.weight_decay)

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """Nothing: its settings are fixed."""
        return {}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """No state."""
        return {}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """One step of all particles."""
        groups = by_particle(params)
        count = len(groups)
        if count == 1:
            return SGD(self.lr, weight_decay=self.weight_decay).step(params, grads, state)
        corresponding = list(zip(*groups, strict=True))
        places, slopes = _stacked(params, corresponding), _stacked(grads, corresponding)
        # Distances and forces do not depend on the origin. An origin among the particles loses no digits.
        relative = [p - p[:1] for p in places]
        kernel, push = _kernel(relative)
        moved: Params = {}
        for names, p, g, r in zip(corresponding, places, slopes, relative, strict=True):
            pull = kernel @ (g + self.weight_decay / count * p) if self.weight_decay else kernel @ g
            new = p - self.lr * (pull - self.repulsion / count * (push @ r))
            moved |= {name: row.view(params[name].shape) for name, row in zip(names, new, strict=True)}
        return {name: moved[name] for name in params}, state


svgd = SVGD
"""The usual name of :class:`SVGD`."""


def _stacked(params: Mapping[str, Tensor], corresponding: list[tuple[str, ...]]) -> list[Tensor]:
    """Each tensor of the network, with the particles as rows: ``[M, size]``."""
    return [torch.stack([params[name].flatten() for name in names]) for names in corresponding]


def _kernel(relative: list[Tensor]) -> tuple[Tensor, Tensor]:
    r"""The kernel ``[M, M]``, and the matrix that maps the particles to :math:`\sum_j \nabla_{\theta_j} k_{ij}`."""
    products = torch.stack([r @ r.mT for r in relative]).sum(0)
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0)
    count = len(distances)
    pairs = torch.triu_indices(count, count, 1, device=distances.device)
    median = distances[pairs[0], pairs[1]].median()
    # If the particles are at one place, there is no force between them with any h.
    h = torch.where(median > 0, median / math.log(count), 1.0)
    kernel = torch.exp(-distances / h)
    return kernel, 2 / h * (torch.diag_embed(kernel.sum(1)) - kernel)
