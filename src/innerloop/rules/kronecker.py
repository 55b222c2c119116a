"""Meta-Curvature: transform each gradient by meta-learned matrices, one for each axis of the parameter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.params import Params
from innerloop.parts import Part
from innerloop.rules.base import Rule, RuleState, check_rule

__all__ = ["Kronecker", "kronecker"]


@dataclass(frozen=True, repr=False)
class Kronecker(Part):
    r"""Transform the gradient by a meta-learned Kronecker product before a rule sees it (Meta-Curvature).

    .. math:: g \leftarrow (M_{\mathrm{o}} \otimes M_{\mathrm{i}} \otimes M_{\mathrm{f}}) \, g

    Each axis of a gradient has a square matrix, which begins as the identity. A convolution's gradient
    ``[out, in, height, width]`` has the three axes out, in and filter (height times width). A linear layer's has out
    and in, and a bias has out. The matrices are meta-parameters under ``method.curvature``.

    Args:
        rule: the rule that takes the step.

    Example:
        >>> from innerloop.rules import sgd
        >>> rule, params = kronecker(sgd(1.0)), {"w": torch.zeros(2, 1)}
        >>> {name: list(matrix.shape) for name, matrix in rule.learned(params).items()}
        {'curvature.w.0': [2, 2], 'curvature.w.1': [1, 1]}
        >>> turn = {"curvature.w.0": torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "curvature.w.1": torch.eye(1)}
        >>> rule.step(params, {"w": torch.tensor([[1.0], [2.0]])}, rule.init(params, turn))[0]
        {'w': tensor([[-2.],
                [-1.]])}

    References:
        Park, Oliva: Meta-Curvature. NeurIPS 2019, section 3.
    """

    rule: Rule

    def __post_init__(self) -> None:
        check_rule(self.rule)

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns, and an identity matrix for each axis of each parameter."""
        matrices = {
            f"curvature.{name}.{axis}": torch.eye(size, dtype=p.dtype, device=p.device)
            for name, p in params.items()
            for axis, size in enumerate(_axes(p))
        }
        return {**self.rule.learned(params), **matrices}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule, and the matrices."""
        matrices = {
            name: {str(axis): learned[f"curvature.{name}.{axis}"] for axis in range(len(_axes(p)))}
            for name, p in params.items()
        }
        return {"inner": self.rule.init(params, learned), "matrices": matrices}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule along the transformed gradient."""
        turned = {name: _transformed(g, state["matrices"][name].values()) for name, g in grads.items()}
        moved, inner = self.rule.step(params, turned, state["inner"])
        return moved, {"inner": inner, "matrices": state["matrices"]}


kronecker = Kronecker
"""The usual name of :class:`Kronecker`."""


def _axes(p: Tensor) -> tuple[int, ...]:
    """The sizes of the axes that have a matrix. The axes from the third on count as one."""
    return tuple(p.flatten(2).shape) if p.ndim > 2 else tuple(p.shape)


def _transformed(g: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    result = g.reshape(_axes(g))
    for axis, matrix in enumerate(matrices):
        result = (result.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
    return result.reshape(g.shape)
