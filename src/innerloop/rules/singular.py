"""GAP: scale the singular values of each gradient by meta-learned factors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.params import Params
from innerloop.parts import Part
from innerloop.rules._names import matches
from innerloop.rules.base import Rule, RuleState, check_rule

__all__ = ["Form", "Singular", "singular"]

Form = Literal["svd", "exact_svd", "diagonal"]
"""How a gradient is scaled: along its singular vectors, which the meta-gradient takes as constants (``svd``) or not
(``exact_svd``), or row by row (``diagonal``)."""

START = math.log(math.expm1(2.0)) / 2
"""The initial value of every m. Its softplus, with β = 2, is 1."""


@dataclass(frozen=True, repr=False)
class Singular(Part):
    r"""Scale the singular values of the gradient by meta-learned factors before a rule sees it (GAP).

    .. math:: G = U \Sigma V^\top \;\mapsto\; U M \Sigma V^\top = (U M U^\top) \, G, \qquad
              M = \mathrm{diag}(\mathrm{softplus}(m))

    The first factor belongs to the largest singular value. All factors are 1 at first, and always positive. The m are
    meta-parameters under ``method.singular``. A convolution's gradient ``[out, in, height, width]`` is taken as a
    matrix ``[out, in * height * width]``. Biases are not scaled.

    - ``svd`` takes U as a constant in the meta-gradient, as the original code does. This is stable. It differentiates
      the gradient, but not how U turns with the gradient.
    - ``exact_svd`` differentiates U, too. Where two singular values are (nearly) equal and their factors differ, the
      derivative of U is (nearly) infinite. There it is damped,
      :math:`1/\delta \mapsto \delta / (\delta^2 + \epsilon^2)`, for a difference δ of squared singular values.
    - ``diagonal`` is the original's approximation, M G. It needs no decomposition, and does not act on singular values.

    U is found from the small matrix G G^T. If G has more rows than columns, it is transposed first. With all factors at
    1 the rule is therefore plain gradient descent, with its exact meta-gradient. The original code differs: its U is
    constant, and may have fewer columns than rows. Then it projects the meta-gradient that goes back through it.

    Args:
        rule: the rule that takes the step.
        names: shell-style name patterns of the parameters to scale, separated by spaces.
        form: see above.

    Raises:
        ValueError: an unknown form; once the network is known, patterns that match none of its matrices or kernels.

    Example:
        >>> from innerloop.rules import sgd
        >>> rule, params = singular(sgd(1.0)), {"w": torch.zeros(2, 3)}
        >>> {name: list(m.shape) for name, m in rule.learned(params).items()}
        {'singular.w': [2]}
        >>> g = torch.tensor([[0.0, 2.0, 0.0], [4.0, 0.0, 0.0]])
        >>> twice = torch.tensor(4.0).expm1().log() / 2  # its softplus is 2
        >>> state = rule.init(params, {"singular.w": torch.stack([twice, torch.tensor(START)])})
        >>> rule.step(params, {"w": g}, state)[0]["w"].round(decimals=4) + 0.0
        tensor([[ 0., -2.,  0.],
                [-8.,  0.,  0.]])

    References:
        Kang, Hwang, Eo, Kim, Rhee: Meta-Learning with a Geometry-Adaptive Preconditioner. CVPR 2023, and its published
        code, https://github.com/Suhyun777/CVPR23-GAP.
    """

    rule: Rule
    names: str = "*"
    _: KW_ONLY
    form: Form = "svd"

    def __post_init__(self) -> None:
        check_rule(self.rule)
        if self.form not in get_args(Form):
            raise ValueError(f"form is {self.form!r}; choose one of {', '.join(map(repr, get_args(Form)))}")

    def learned(self, params: Mapping[str, Tensor]) -> Params:
        """What the wrapped rule learns, and the factors m of each matrix."""
        factors = {
            f"singular.{name}": p.new_full((min(p.flatten(1).shape),), START)
            for name, p in params.items()
            if p.ndim > 1 and matches(self.names, name)
        }
        if not factors:
            raise ValueError(f"the patterns {self.names!r} match no matrix or kernel among {', '.join(params)}")
        return {**self.rule.learned(params), **factors}

    def init(self, params: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> RuleState:
        """The state of the wrapped rule, and the factors."""
        factors = {name: learned[f"singular.{name}"] for name in params if f"singular.{name}" in learned}
        return {"inner": self.rule.init(params, learned), "factors": factors}

    def step(
        self, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], state: RuleState
    ) -> tuple[Params, RuleState]:
        """A step of the wrapped rule along the scaled gradient."""
        factors = state["factors"]
        scaled = {
            n: _scaled(g, F.softplus(factors[n], beta=2), self.form) if n in factors else g for n, g in grads.items()
        }
        moved, inner = self.rule.step(params, scaled, state["inner"])
        return moved, {"inner": inner, "factors": factors}


singular = Singular
"""The usual name of :class:`Singular`."""


def _scaled(g: Tensor, m: Tensor, form: Form) -> Tensor:
    matrix = g.flatten(1)
    wide = matrix.shape[0] <= matrix.shape[1]
    a = matrix if wide else matrix.mT
    result = m[:, None] * a if form == "diagonal" else _along_singular_vectors(a, m, exact=form == "exact_svd")
    return (result if wide else result.mT).reshape(g.shape)


def _along_singular_vectors(a: Tensor, m: Tensor, *, exact: bool) -> Tensor:
    """``U M U^T a``."""
    gram = (a @ a.mT).detach()
    # A matrix that is not finite has no eigenvectors. With the identity in its place the result is not finite, as it
    # should be.
    gram = torch.where(gram.isfinite().all(), gram, torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    squares, u = torch.linalg.eigh(gram)
    squares, u = squares.flip(-1), u.flip(-1)
    inside = torch.diag(m)
    if exact:
        # U M U^T to first order, in the basis of the constant U: M, and off the diagonal how U turns.
        turned = u.mT @ (a @ a.mT) @ u
        gaps = squares[:, None] - squares[None]
        width = torch.finfo(a.dtype).eps * squares[0] ** 2 + torch.finfo(a.dtype).tiny
        inside = inside + (m[:, None] - m[None]) * gaps / (gaps**2 + width) * (turned - turned.detach())
    result: Tensor = u @ (inside @ (u.mT @ a))
    return result
