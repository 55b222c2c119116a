"""Translations: operators that work on each number by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from innerloop.export.errors import ExportError
from innerloop.export.graph import Size
from innerloop.export.translate import Context, Value, translates

__all__: list[str] = []

Operand = Value | Size


def _plain(kind: str) -> Callable[[Context, Value], str]:
    return lambda to, x: to.op(kind, to.tensor(x))


for _name, _kind in {
    "relu": "Relu",
    "neg": "Neg",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "reciprocal": "Reciprocal",
    "abs": "Abs",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "round": "Round",
}.items():
    translates(_name)(_plain(_kind))


def _same(to: Context, x: Value, *_: Any, **__: Any) -> str:
    return to.tensor(x)


translates("alias", "detach", "clone", "lift_fresh_copy", "_to_copy", "contiguous")(_same)


def _binary(kind: str, of_truth: str | None = None) -> Callable[..., str]:
    def write(to: Context, x: Operand, y: Operand, *, alpha: float = 1) -> str:
        if to.dtype == torch.bool:
            if of_truth is None:
                raise ExportError(f"the computation takes {kind} of truth values, which ONNX does not do")
            return to.op(of_truth, to.tensor(x), to.tensor(y))
        right = to.tensor(y)
        return to.op(kind, to.tensor(x), right if alpha == 1 else to.op("Mul", right, to.number(alpha)))

    return write


translates("add")(_binary("Add", "Or"))
translates("sub")(_binary("Sub"))
translates("mul")(_binary("Mul", "And"))
translates("maximum")(_binary("Max"))
translates("minimum")(_binary("Min"))


@translates("div")
def _div(to: Context, x: Operand, y: Operand, *, rounding_mode: str | None = None) -> str:
    ratio = to.op("Div", to.tensor(x), to.tensor(y))
    if rounding_mode is None:
        return ratio
    if rounding_mode != "floor" or not to.dtype.is_floating_point:
        raise ExportError(f"the computation divides with rounding_mode={rounding_mode!r} on {to.dtype}")
    return to.op("Floor", ratio)


@translates("pow")
def _pow(to: Context, x: Operand, exponent: Operand) -> str:
    base = to.tensor(x)
    if exponent == 2:
        return to.op("Mul", base, base)
    return to.op("Sqrt", base) if exponent == 0.5 else to.op("Pow", base, to.tensor(exponent))


@translates("rsqrt")
def _rsqrt(to: Context, x: Value) -> str:
    return to.op("Reciprocal", to.op("Sqrt", to.tensor(x)))


@translates("log1p")
def _log1p(to: Context, x: Value) -> str:
    # log(u) x / (u - 1) with u = 1 + x keeps the digits that log(1 + x) loses for small x.
    one, given = to.number(1), to.tensor(x)
    u = to.op("Add", given, one)
    exact = to.op("Equal", u, one)
    gap = to.op("Where", exact, one, to.op("Sub", u, one))
    return to.op("Where", exact, given, to.op("Div", to.op("Mul", to.op("Log", u), given), gap))


@translates("expm1")
def _expm1(to: Context, x: Value) -> str:
    # exp(x) - 1 = 2 tanh(x / 2) / (1 - tanh(x / 2)), which keeps the digits that exp(x) - 1 loses for small x.
    given, one = to.tensor(x), to.number(1)
    t = to.op("Tanh", to.op("Mul", given, to.number(0.5)))
    small = to.op("Div", to.op("Add", t, t), to.op("Sub", one, t))
    near = to.op("Less", to.op("Abs", given), one)
    return to.op("Where", near, small, to.op("Sub", to.op("Exp", given), one))


@translates("clamp")
def _clamp(to: Context, x: Value, low: Size | None = None, high: Size | None = None) -> str:
    found = to.tensor(x)
    if low is not None:
        found = to.op("Max", found, to.tensor(low))
    return found if high is None else to.op("Min", found, to.tensor(high))


@translates("leaky_relu")
def _leaky_relu(to: Context, x: Value, slope: float = 0.01) -> str:
    return to.op("LeakyRelu", to.tensor(x), alpha=float(slope))


@translates("elu")
def _elu(to: Context, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> str:
    given = to.tensor(x)
    negative = to.op(
        "Mul", to.op("Sub", to.op("Exp", to.op("Mul", given, to.number(input_scale))), to.number(1)), to.number(alpha)
    )
    found = to.op("Where", to.op("Greater", given, to.number(0)), given, negative)
    return to.op("Mul", found, to.number(scale))


@translates("gelu")
def _gelu(to: Context, x: Value, *, approximate: str = "none") -> str:
    given, half, one = to.tensor(x), to.number(0.5), to.number(1)
    if approximate == "tanh":
        cube = to.op("Mul", to.op("Mul", given, given), given)
        inner = to.op("Add", given, to.op("Mul", cube, to.number(0.044715)))
        bend = to.op("Tanh", to.op("Mul", inner, to.number((2 / torch.pi) ** 0.5)))
    else:
        bend = to.op("Erf", to.op("Mul", given, to.number(0.5**0.5)))
    return to.op("Mul", to.op("Mul", given, half), to.op("Add", bend, one))


def _compare(kind: str, *, negated: bool = False) -> Callable[..., str]:
    def write(to: Context, x: Operand, y: Operand) -> str:
        dtype = _common(x, y)
        found = to.op(kind, to.tensor(x, dtype), to.tensor(y, dtype))
        return to.op("Not", found) if negated else found

    return write


translates("eq")(_compare("Equal"))
translates("ne")(_compare("Equal", negated=True))
translates("lt")(_compare("Less"))
translates("le")(_compare("LessOrEqual"))
translates("gt")(_compare("Greater"))
translates("ge")(_compare("GreaterOrEqual"))


def _common(x: Operand, y: Operand) -> torch.dtype:
    """The type in which two operands are compared."""
    like = [torch.empty([1] * len(v.shape), dtype=v.dtype) if isinstance(v, Value) else v for v in (x, y)]
    numbers = [v if isinstance(v, torch.Tensor | int | float) else 0 for v in like]
    one, other = numbers
    dtype = torch.result_type(one, other)
    return torch.int64 if dtype == torch.bool and not all(isinstance(v, Value) for v in (x, y)) else dtype


@translates("logical_not", "bitwise_not")
def _not(to: Context, x: Value) -> str:
    if to.dtype != torch.bool:
        raise ExportError("the computation inverts the bits of whole numbers, which ONNX has not")
    return to.op("Not", to.tensor(x, torch.bool))


def _logical(kind: str) -> Callable[..., str]:
    def write(to: Context, x: Value, y: Value) -> str:
        if to.dtype != torch.bool:
            raise ExportError("the computation combines the bits of whole numbers, which an exported graph does not do")
        return to.op(kind, to.tensor(x, torch.bool), to.tensor(y, torch.bool))

    return write


translates("logical_and", "bitwise_and")(_logical("And"))
translates("logical_or", "bitwise_or")(_logical("Or"))
translates("logical_xor", "bitwise_xor")(_logical("Xor"))


@translates("where.self")
def _where(to: Context, condition: Value, x: Operand, y: Operand) -> str:
    return to.op("Where", to.tensor(condition, torch.bool), to.tensor(x), to.tensor(y))
