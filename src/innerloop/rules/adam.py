"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import Setting, check_at_least, check_below, is_off
from innerloop.rules._numeric import counter, safe_sqrt
from innerloop.rules.base import RuleState

__all__ = ["Adam", "AdamW", "adam", "adamw"]


@dataclass(frozen=True, repr=False)
class Adam(Part):
    r"""Adam (Kingma and Ba, 2015). It is differentiable, and takes the same steps as ``torch.optim.Adam``.

    .. math::
        m \leftarrow \beta_1 m + (1-\beta_1) g,\quad v \leftarrow \beta_2 v + (1-\beta_2) g^2,\quad
        \theta \leftarrow \theta - \alpha \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}

    Where every gradient so far was exactly zero, v is zero and the derivative of its square root is infinite. That
    derivative is taken as zero, so that the meta-gradient stays finite.

    Args:
        lr: the inner learning rate α.
        betas: β1 and β2. Reptile uses β1 = 0.
        eps: ε.
        weight_decay: an L2 penalty added to the gradient.

    Raises:
        ValueError: a negative number, or a β of 1 or more.

    Example:
        >>> rule, params = adam(0.1), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.9000)}
    """

    lr: Setting
    _: KW_ONLY
    betas: tuple[Setting, Setting] = (0.9, 0.999)
    eps: Setting = 1e-8
    weight_decay: Setting = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise ValueError(f"betas is {self.betas}; it must be a tuple of two numbers")
        beta1, beta2 = self.betas
        check_at_least(0.0, lr=self.lr, beta1=beta1, beta2=beta2, eps=self.eps, weight_decay=self.weight_decay)
        check_below(1.0, beta1=beta1, beta2=beta2)

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """Nothing: its settings are fixed."""
        return {}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The count of steps, and the running means m and v."""
        some = next(iter(params.values()))
        zeros = map_params(torch.zeros_like, params)
        m = {} if is_off(self.betas[0]) else zeros  # with β1 = 0, m is the gradient and nothing is carried
        return {"count": counter(some), "m": m, "v": zeros}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """One step of Adam."""
        beta1, beta2 = self.betas
        if not is_off(self.weight_decay):
            grads = map_params(lambda g, p: g + self.weight_decay * p, grads, params)
        count = state["count"] + 1
        m = {} if is_off(beta1) else map_params(lambda m, g: _mean(beta1, m, g), state["m"], grads)
        v = map_params(lambda v, g: _mean(beta2, v, g * g), state["v"], grads)
        rate = self.lr / _bias_correction(beta1, count)
        root = _bias_correction(beta2, count).sqrt()

        def update(p: Tensor, m: Tensor, v: Tensor) -> Tensor:
            # This form needs little new memory. Only tensors that were made here are changed in place.
            scaled = m / (safe_sqrt(v) / root.to(p.dtype)).add_(self.eps)
            return (scaled * -rate.to(p.dtype)).add_(p)

        return map_params(update, params, m or grads, v), {"count": count, "m": m, "v": v}


adam = Adam
"""The usual name of :class:`Adam`."""


@dataclass(frozen=True, repr=False)
class AdamW(Part):
    r"""Adam with decoupled weight decay. It is differentiable, and takes the same steps as ``torch.optim.AdamW``.

    .. math:: \theta \leftarrow \mathrm{Adam}((1 - \alpha\lambda)\,\theta)

    Args:
        lr: the inner learning rate α.
        betas: β1 and β2, as for :func:`adam`.
        eps: ε, as for :func:`adam`.
        weight_decay: λ. It shrinks the parameters and is not part of the gradient.

    Raises:
        ValueError: a negative number, or a β of 1 or more.

    Example:
        >>> rule, params = adamw(0.1, weight_decay=0.5), {"w": torch.tensor(1.0)}
        >>> rule.step(params, {"w": torch.tensor(7.0)}, rule.init(params, {}))[0]
        {'w': tensor(0.8500)}

    References:
        Loshchilov, Hutter: Decoupled Weight Decay Regularization. ICLR 2019, algorithm 2.
    """

    lr: Setting
    _: KW_ONLY
    betas: tuple[Setting, Setting] = (0.9, 0.999)
    eps: Setting = 1e-8
    weight_decay: Setting = 0.01

    def __post_init__(self) -> None:
        check_at_least(0.0, weight_decay=self.weight_decay)
        self._adam()  # checks the other settings

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """Nothing: its settings are fixed."""
        return {}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of :class:`Adam`."""
        return self._adam().init(params, learned)

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """Shrink the parameters, then take a step of :class:`Adam`."""
        shrunk = map_params(lambda p: p * (1 - self.lr * self.weight_decay), params)
        return self._adam().step(shrunk, grads, state)

    def _adam(self) -> Adam:
        return Adam(self.lr, betas=self.betas, eps=self.eps)


adamw = AdamW
"""The usual name of :class:`AdamW`."""


def _mean(beta: Setting, mean: Tensor, new: Tensor) -> Tensor:
    """``beta * mean + (1 - beta) * new``."""
    if isinstance(beta, Tensor):
        return beta * mean + (1 - beta) * new
    return (beta * mean).add_(new, alpha=1 - beta)


def _bias_correction(beta: Setting, count: Tensor) -> Tensor:
    """``1 - beta**count``. The plain form would lose four digits of float32 to cancellation in the first steps."""
    if is_off(beta):
        return torch.ones_like(count)
    return -torch.expm1(count * (beta.log() if isinstance(beta, Tensor) else math.log(beta)))
