"""Rates and decays that a small meta-learned network generates at each inner step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from innerloop.params import Params, map_params
from innerloop.parts import Part
from innerloop.rules._checks import check_at_least
from innerloop.rules._numeric import later
from innerloop.rules.base import RuleState

__all__ = ["ALFA", "alfa"]


@dataclass(frozen=True, repr=False)
class ALFA(Part):
    r"""Gradient descent whose rate and weight decay a meta-learned network gives for each layer at each step (ALFA).

    .. math:: \theta^l \leftarrow (1 - \hat\beta^l \beta_k^l) \, \theta^l - \hat\alpha^l \alpha_k^l \, g^l, \qquad
              (\hat\alpha, \hat\beta) = W_2 \max(0, W_1 \tau + b_1) + b_2, \qquad
              \tau = (\mathrm{mean}\,\theta^1, \dots, \mathrm{mean}\,\theta^L,
                      \mathrm{mean}\,g^1, \dots, \mathrm{mean}\,g^L)

    where a layer l is a named tensor. The network has as many hidden units as inputs. It and its scales
    :math:`\alpha_k^l, \beta_k^l` for each layer and step are meta-parameters under ``method.alfa``. Its first layer is
    drawn from a fixed seed, and its outputs are all 1 at first, so that the rule begins as
    :func:`innerloop.rules.sgd` with ``weight_decay``; in the original code they begin at random.

    The meta-gradient goes through the network's inputs. In the original code the means of the gradients are constants.

    Args:
        lr: what every :math:`\alpha_k^l` begins with.
        weight_decay: the decay at first; every :math:`\beta_k^l` begins with its product with ``lr``.
        steps: how many steps have scales; further ones reuse the last.

    Raises:
        ValueError: a negative number.

    Example:
        >>> rule, params = alfa(0.1, steps=3), {"w": torch.ones(2), "b": torch.zeros(1)}
        >>> {name: list(t.shape) for name, t in rule.learned(params).items()}  # doctest: +NORMALIZE_WHITESPACE
        {'alfa.scale.lr.w': [3], 'alfa.scale.lr.b': [3], 'alfa.scale.decay.w': [3], 'alfa.scale.decay.b': [3],
         'alfa.hidden.weight': [4, 4], 'alfa.hidden.bias': [4], 'alfa.out.weight': [4, 4], 'alfa.out.bias': [4]}

    References:
        Baik, Choi, Choi, Kim, Lee: Meta-Learning with Adaptive Hyperparameters. NeurIPS 2020, section 3.2, and its
        published code, https://github.com/baiksung/ALFA.
    """

    lr: float
    weight_decay: float = 5e-4
    _: KW_ONLY
    steps: int

    def __post_init__(self) -> None:
        check_at_least(0.0, lr=self.lr, weight_decay=self.weight_decay)
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; it must be 0 or more")

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """The scales of each layer and step, and the network that generates what they scale."""
        size, some = 2 * len(params), next(iter(params.values()))
        bound, generator = size**-0.5, torch.Generator().manual_seed(0)
        drawn = [bound * (2 * torch.rand(shape, generator=generator) - 1) for shape in ((size, size), (size,))]
        return {
            **{f"alfa.scale.lr.{name}": p.new_full((max(1, self.steps),), self.lr) for name, p in params.items()},
            **{
                f"alfa.scale.decay.{name}": p.new_full((max(1, self.steps),), self.lr * self.weight_decay)
                for name, p in params.items()
            },
            "alfa.hidden.weight": drawn[0].to(some),
            "alfa.hidden.bias": drawn[1].to(some),
            "alfa.out.weight": some.new_zeros(size, size),
            "alfa.out.bias": some.new_ones(size),
        }

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """Of what is learned, what concerns the parameters that are adapted."""
        # Of the network, what concerns the tensors that are adapted.
        prefix = "alfa.scale.lr."
        every = [name.removeprefix(prefix) for name in learned if name.startswith(prefix)]
        mine = [i for i, name in enumerate(every) if name in params]
        places = mine + [len(every) + i for i in mine]
        return {
            "lr": {every[i]: learned[f"alfa.scale.lr.{every[i]}"] for i in mine},
            "decay": {every[i]: learned[f"alfa.scale.decay.{every[i]}"] for i in mine},
            "hidden": (learned["alfa.hidden.weight"][:, places], learned["alfa.hidden.bias"]),
            "out": (learned["alfa.out.weight"][places], learned["alfa.out.bias"][places]),
        }

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """One step with the rates and decays that the network gives."""
        names = list(state["lr"])
        means = torch.stack([t[name].mean() for t in (params, grads) for name in names])
        weight, bias = state["hidden"]
        hidden = (weight @ means + bias).relu()
        weight, bias = state["out"]
        outputs = dict(
            zip([(kind, name) for kind in ("lr", "decay") for name in names], weight @ hidden + bias, strict=True)
        )

        def update(name: str) -> Tensor:
            rate, decay = (outputs[kind, name] * state[kind][name][0] for kind in ("lr", "decay"))
            updated: Tensor = (1 - decay) * params[name] - rate * grads[name]
            return updated

        coming = {kind: map_params(later, state[kind]) for kind in ("lr", "decay")}
        return {name: update(name) for name in params}, {**state, **coming}


alfa = ALFA
"""The usual name of :class:`ALFA`."""
