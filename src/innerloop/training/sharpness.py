"""Sharpness-aware minimisation as an outer optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["SharpnessAware"]


class SharpnessAware(Optimizer):
    r"""Any optimizer, with the gradient taken at the point nearby where the loss is highest. So it finds flat regions.

    .. math:: \epsilon = \rho \frac{\nabla F(\theta)}{\lVert \nabla F(\theta) \rVert}, \qquad
              \text{then a step of the optimizer from } \theta \text{ by } \nabla F(\theta + \epsilon)

    The norm is taken over all parameters together. A step evaluates the gradient twice. The radius is a setting of the
    parameter groups, so a checkpoint keeps it.

    Args:
        params: the parameters to optimise, as for any optimizer.
        base: makes the optimizer that takes the step. It must not need a closure itself.
        radius: ρ. With 0 the step is that of the optimizer alone.

    Raises:
        ValueError: a negative radius.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = SharpnessAware([weight], lambda groups: torch.optim.SGD(groups, lr=0.1), radius=1.0)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (weight**2).sum()
        ...     loss.backward()
        ...     return loss
        >>> optimizer.step(closure), weight  # the gradient is that at 3
        (tensor(4., grad_fn=<SumBackward0>), Parameter containing:
        tensor([1.4000], requires_grad=True))

    References:
        Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for Efficiently Improving Generalization. ICLR
        2021, algorithm 1.
    """

    def __init__(self, params: Iterable[Any], base: Callable[[Any], Optimizer], radius: float = 0.05) -> None:
        if not 0 <= radius < math.inf:
            raise ValueError(f"radius is {radius}; it must be a finite number of at least 0")
        self.base = base(params)
        super().__init__(self.base.param_groups, {"radius": radius})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure: evaluates the loss and leaves its gradient in the parameters. It is called twice.

        Returns:
            The loss at the start of the step.

        Raises:
            ValueError: there is no closure.
        """
        if closure is None:
            raise ValueError("a sharpness-aware step evaluates the gradient twice; call step(closure)")
        with torch.enable_grad():
            loss = closure()
        moved: list[tuple[Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                self._climb(moved)
            with torch.enable_grad():
                closure()
        finally:
            with torch.no_grad():
                for param, before in moved:
                    param.copy_(before)
        self.base.step()
        return loss

    def _climb(self, moved: list[tuple[Tensor, Tensor]]) -> None:
        """Move the parameters uphill, and note the earlier value of each."""
        steep = [(group["radius"], p, p.grad) for group in self.param_groups for p in group["params"]]
        norms = [torch.linalg.vector_norm(grad) for _, _, grad in steep if grad is not None]
        if not norms:
            return
        norm = torch.linalg.vector_norm(torch.stack([each.to(norms[0].device) for each in norms]))
        for radius, param, grad in steep:
            if grad is not None and radius:
                moved.append((param, param.detach().clone()))
                param.add_(grad * (radius / (norm + TINY)).to(grad))

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer that takes the step."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state that :meth:`state_dict` returned."""
        self.base.load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Share the groups and the state of the base optimizer, so that a scheduler changes both."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state


TINY = 1e-12
"""Added to the norm, so that a zero gradient is not divided by zero, as in the published code."""
