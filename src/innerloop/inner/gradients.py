"""Gradients by name. A parameter that the loss does not use is an error, not a silent zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from innerloop.inner.meta import METHOD_PREFIX, Meta
from innerloop.params import Params

__all__ = ["Unused", "checked_gradients", "gradients", "meta_gradients"]

Unused = Literal["error", "ignore"]
"""Whether a parameter that the loss does not use is an error, or gets a gradient of zero (``ignore``)."""


def gradients(loss: Tensor, params: Mapping[str, Tensor], *, create_graph: bool, unused: Unused, what: str) -> Params:
    """The gradient of a scalar with respect to named tensors.

    Args:
        loss: the scalar.
        params: the tensors.
        create_graph: whether the gradient itself can be differentiated.
        unused: whether a tensor that the scalar does not depend on is an error or gets a gradient of zero.
        what: the name of the scalar in error messages.

    Raises:
        ValueError: the scalar does not depend on one of the tensors and ``unused`` is ``error``, or it depends on none.
    """
    found: Sequence[Tensor | None] = [None] * len(params)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, allow_unused=True)
    return checked_gradients(params, dict(zip(params, found, strict=True)), unused=unused, what=what)


def meta_gradients(loss: Tensor, meta: Meta, *, unused: Unused, what: str) -> Meta:
    """The gradient of a scalar with respect to the meta-parameters, without a graph.

    The other arguments are those of :func:`gradients`.
    """
    return Meta.of(gradients(loss, meta.named(), create_graph=False, unused=unused, what=what))


def checked_gradients(
    params: Mapping[str, Tensor], found: Mapping[str, Tensor | None], *, unused: Unused, what: str
) -> Params:
    """Check the gradients that were found, and put zeros where there is none.

    The other arguments are those of :func:`gradients`.

    Raises:
        ValueError: as for :func:`gradients`.
    """
    idle = [name for name in params if found.get(name) is None]
    if len(idle) == len(params):
        raise ValueError(f"the {what} does not depend on any of the parameters {', '.join(params)}")
    # An episode may have no use for something that a rule learns, such as the rate of a step that is not taken.
    idle = [name for name in idle if not name.startswith(METHOD_PREFIX)]
    if idle and unused == "error":
        raise ValueError(
            f"the {what} does not depend on {', '.join(idle)}: freeze with requires_grad_(False), leave out of "
            f"adapt=, or pass unused='ignore' to give a gradient of zero"
        )
    return {name: torch.zeros_like(p) if (g := found.get(name)) is None else g for name, p in params.items()}
