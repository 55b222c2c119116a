"""Translation: the eigendecomposition of symmetric matrices, which ONNX has no operator for.

It is Jacobi's method. A rotation of two axes makes their two elements off the diagonal zero. Rotations of disjoint
pairs of axes are one product of matrices. So n - 1 products meet every pair once, as the players of a tournament meet.
After a few such sweeps nothing is left off the diagonal.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from innerloop.export.graph import Graph, Scalar
from innerloop.export.translate import Context, Value, translates

__all__ = ["partners"]

SWEEPS = 9
"""How often every pair of axes is rotated. For 64 axes and float32 seven times are enough."""


def partners(n: int) -> list[list[int]]:
    """A tournament: for each round, the partner of each of n players, or the player itself where it has none.

    Example:
        >>> partners(4)
        [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]]
    """
    last = n - 1 + n % 2  # an odd number; an odd n has one more player, who is not there
    rounds = []
    for number in range(last):
        # Two meet where their sum is the round's number, modulo `last`. Who would meet itself meets the last.
        meets = {player: (number - player) % last for player in range(last)}
        idle = next(player for player, other in meets.items() if player == other)
        meets |= {idle: last, last: idle}
        rounds.append([meets[player] if meets[player] < n else player for player in range(n)])
    return rounds


@translates("_linalg_eigh", "linalg_eigh")
def _eigh(to: Context, a: Value, uplo: str = "L", compute_v: bool = True) -> list[str]:
    """The eigenvalues ``[..., n]``, the smallest first, and the eigenvectors ``[..., n, n]``."""
    graph, (n, _) = to.graph, a.fixed("an eigendecomposition", (-2, -1))
    table, unit = np.array(partners(n), np.int64), to.graph.constant(np.eye(n), a.dtype)
    body = Graph(within=graph)
    number = Scalar(body.add_input(body.name("round"), torch.int64, []))
    go_on = body.add_input(body.name("go_on"), torch.bool, [])
    shape = list(a.shape)
    at, turned = (body.add_input(body.name("at"), a.dtype, shape) for _ in range(2))
    rotation = _rotation(replace(to, graph=body), at, number, table, unit)
    swap = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    after = body.op("MatMul", body.op("Transpose", rotation, perm=swap), body.op("MatMul", at, rotation))
    # Without this, rounding would make a pair's two elements differ, and a rotation no rotation.
    after = body.op("Mul", body.op("Add", after, body.op("Transpose", after, perm=swap)), to.number(0.5))
    body.add_output(go_on, body.name("go_on"), torch.bool, [])
    body.add_output(after, body.name("next"), a.dtype, shape)
    body.add_output(body.op("MatMul", turned, rotation), body.name("next"), a.dtype, shape)
    first = graph.op("Mul", graph.op("Add", a.name, to.op("Transpose", a.name, perm=swap)), to.number(0.5))
    identity = graph.op("Expand", unit, to.shape_of(a))
    diagonalised, vectors = graph.loop(SWEEPS * len(table), [first, identity], body, 0)
    values = graph.op("ReduceSum", graph.op("Mul", diagonalised, unit), graph.ints([-1]), keepdims=0)
    smallest_first, order = graph.ops("TopK", 2, values, graph.ints([n]), axis=-1, largest=0)
    columns = graph.op("Expand", graph.op("Unsqueeze", order, graph.ints([-2])), to.shape_of(a))
    return [smallest_first, graph.op("GatherElements", vectors, columns, axis=-1)]


def _rotation(to: Context, at: str, number: Scalar, table: npt.NDArray[np.int64], unit: str) -> str:
    """The matrix that rotates each pair of axes that meets in a round, so that their element becomes zero."""
    n, one, two = table.shape[1], to.number(1.0), to.number(2.0)
    in_turn = to.op("Mod", number, to.number(len(table), torch.int64))
    partner = to.op("Gather", to.graph.constant(table), in_turn, axis=0)
    column = to.op("Unsqueeze", partner, to.graph.ints([1]))
    met = to.graph.cast(to.op("Equal", column, to.number(list(range(n)), torch.int64)), to.dtype)  # [n, n]
    # 1 for the first axis of a pair, -1 for the second, 0 for an axis without a partner
    sign = to.graph.cast(to.op("Sign", to.op("Sub", partner, to.number(list(range(n)), torch.int64))), to.dtype)
    of_last = to.graph.ints([-1])
    own = to.op("ReduceSum", to.op("Mul", at, unit), of_last, keepdims=0)
    off = to.op("Mul", to.op("ReduceSum", to.op("Mul", at, met), of_last, keepdims=0), to.op("Abs", sign))
    other = to.op("Squeeze", to.op("MatMul", met, to.op("Unsqueeze", own, of_last)), of_last)
    still = to.op("Equal", off, to.number(0.0))
    gap = to.op("Mul", sign, to.op("Sub", other, own))
    slope = to.op("Div", gap, to.op("Mul", two, to.op("Where", still, one, off)))
    # The square of a larger number could be infinite, and some versions of ONNX Runtime have no root of infinity. An
    # element so much smaller than the gap is lost in rounding, whether it becomes zero or not.
    slope = to.op("Clip", slope, to.number(-1e15), to.number(1e15))
    side = to.op("Where", to.op("Less", slope, to.number(0.0)), to.number(-1.0), one)
    length = to.op("Sqrt", to.op("Add", one, to.op("Mul", slope, slope)))
    tangent = to.op("Div", side, to.op("Add", to.op("Abs", slope), length))
    tangent = to.op("Where", still, to.number(0.0), tangent)
    squared = to.op("Add", one, to.op("Mul", tangent, tangent))
    cosine = to.op("Div", one, to.op("Sqrt", squared))
    # A step of Newton's method: some versions of ONNX Runtime have roots that are off in the last digits, and many
    # rotations would lengthen the vectors.
    off_by = to.op("Mul", squared, to.op("Mul", cosine, cosine))
    cosine = to.op("Mul", cosine, to.op("Sub", to.number(1.5), to.op("Mul", to.number(0.5), off_by)))
    sine = to.op("Mul", sign, to.op("Mul", tangent, cosine))
    along = to.op("Mul", to.op("Unsqueeze", cosine, of_last), unit)
    return to.op("Add", along, to.op("Mul", to.op("Unsqueeze", sine, of_last), met))
