"""Solvers of ``(H + ρ I) x = b`` for each task. They use only products of H with vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from innerloop.params import Params, map_params, scale

__all__ = ["Product", "Solver", "conjugate_gradients", "neumann", "nystrom", "solve"]

Product = Callable[[Params], Params]
"""Multiplies one vector for each task by that task's symmetric matrix. All vectors are ``[T, ...]``."""

Solver: TypeAlias = Literal["cg", "neumann", "nystrom"]
"""Conjugate gradients, the Neumann series, or the Nystroem approximation of the matrix."""


def solve(solver: Solver, hessian: Product, b: Params, shift: float, count: int) -> Params:
    """``(H + ρ I)^-1 b`` by a solver that takes ``count`` products with H. ρ is ``shift``."""
    if solver == "neumann":
        return neumann(hessian, b, shift, count)
    if solver == "nystrom":
        return nystrom(hessian, b, shift, count)
    return conjugate_gradients(lambda v: map_params(lambda h, t: h + shift * t, hessian(v), v), b, count)


def conjugate_gradients(matrix: Product, b: Params, iterations: int) -> Params:
    """An approximate solution x of ``matrix(x) = b`` for each task. The iteration starts at zero."""
    x = map_params(torch.zeros_like, b)
    residual = direction = b
    square = _dot(residual, residual)
    for _ in range(iterations):
        product = matrix(direction)
        length = _ratio(square, _dot(direction, product))
        x = _plus(x, length, direction)
        residual = _plus(residual, -length, product)
        square, before = _dot(residual, residual), square
        direction = _plus(residual, _ratio(square, before), direction)
    return x


def neumann(hessian: Product, b: Params, shift: float, terms: int) -> Params:
    """``(H + ρ I)^-1 b`` by its Neumann series: ``b / ρ``, and ``terms`` further terms."""
    term = total = scale(b, 1 / shift)
    for _ in range(terms):
        term = scale(hessian(term), -1 / shift)
        total = map_params(torch.add, total, term)
    return total


def nystrom(hessian: Product, b: Params, shift: float, columns: int) -> Params:
    r"""``(H + ρ I)^-1 b``, with H replaced by a matrix of low rank that has some of its columns.

    Let C be the columns of H at the coordinates K, and W the rows K of C. Woodbury's identity gives

    .. math:: (C W^+ C^\top + \rho I)^{-1} b = \frac{b}{\rho}
              - \frac{1}{\rho^2} \, C \, (W + C^\top C / \rho)^+ \, C^\top b

    The coordinates K are drawn with a fixed seed, and are the same for all tasks at all times. So the result depends
    neither on how tasks are run nor on torch's generator. The paper draws new coordinates each time. With all
    coordinates the result is exact.
    """
    rows = _as_rows(b)
    chosen = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))[:columns].to(rows.device)
    found = []
    for coordinate in chosen:
        unit = torch.zeros_like(rows)
        unit[:, coordinate] = 1
        found.append(_as_rows(hessian(_from_rows(unit, b))))
    c = torch.stack(found, -1)
    inner = c[:, chosen] + c.mT @ c / shift
    # This is a pseudo-inverse, because the columns are linearly dependent where H does not have full rank.
    inverse = torch.linalg.pinv((inner + inner.mT) / 2, hermitian=True)
    correction = c @ (inverse @ (c.mT @ rows[..., None]))
    return _from_rows(rows / shift - correction[..., 0] / shift**2, b)


def _as_rows(params: Mapping[str, Tensor]) -> Tensor:
    """All numbers of each task in one row, ``[T, P]``."""
    return torch.cat([t.flatten(1) for t in params.values()], 1)


def _from_rows(rows: Tensor, like: Mapping[str, Tensor]) -> Params:
    """The rows ``[T, P]`` as named tensors again."""
    parts = rows.split([t[0].numel() for t in like.values()], 1)
    return {name: part.view(t.shape) for (name, t), part in zip(like.items(), parts, strict=True)}


def _dot(a: Params, b: Params) -> Tensor:
    """The inner product of each task, ``[T]``."""
    return torch.stack([(t * b[name]).flatten(1).sum(1) for name, t in a.items()]).sum(0)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """The quotient; zero where the divisor is zero, which means that the solution is found."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))


def _plus(a: Params, factor: Tensor, b: Params) -> Params:
    """``a + factor * b`` with a factor for each task."""
    return map_params(lambda s, t: s + factor.view(-1, *[1] * (t.ndim - 1)) * t, a, b)
