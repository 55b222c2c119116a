"""Named precisions: fewer digits for more speed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, get_args

import torch

__all__ = ["Precision", "checked_precision", "computing_in"]

Precision = Literal["full", "tf32", "bf16"]
"""``full`` keeps PyTorch's settings. ``tf32`` lets NVIDIA GPUs round the inputs of float32 products to 10 bits of
mantissa. ``bf16`` runs the forward pass in bfloat16 by autocast. Parameters and their gradients keep their type."""


def checked_precision(precision: Precision) -> Precision:
    """Return ``precision`` if it is one.

    Raises:
        ValueError: it is none.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; choose one of {', '.join(map(repr, get_args(Precision)))}")
    return precision


@contextlib.contextmanager
def computing_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """A context in which models on this device run in this precision.

    Raises:
        ValueError: an unknown precision.

    Example:
        >>> with computing_in("bf16", torch.device("cpu")):
        ...     print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        torch.bfloat16
    """
    if checked_precision(precision) == "bf16":
        with torch.autocast(device.type, torch.bfloat16):
            yield
    elif precision == "tf32":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
                yield
        finally:
            torch.set_float32_matmul_precision(before)
    else:
        yield
