"""Meta-gradients as compiled graphs.

``torch.compile`` cannot differentiate twice. So the whole estimate, with the inner loop and all derivatives, is first
traced into a graph of plain tensor operations. That graph is compiled, and nothing in it needs to be differentiated.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from innerloop.engine import _torch, pytree
from innerloop.engine.estimate import Estimate
from innerloop.engine.messages import first_line
from innerloop.methods.base import Method

__all__ = ["CompiledEstimates"]

_log = logging.getLogger(__name__)

MOST = 16
"""The most graphs that one engine compiles. A method that changes in every iteration would compile without end."""

TOLERANCE = 0.05
"""The largest difference from the ordinary computation, relative to its norm. The compiler may round otherwise, lower
precisions more so. A graph that computes something else is far outside."""


class CompiledEstimates:
    """Estimates of one model, compiled once for each method and each size of episode.

    If an estimate cannot be traced or compiled, or its graph gives other values when it is made, a warning says so. The
    estimate then runs uncompiled.
    """

    def __init__(self) -> None:
        self._graphs: dict[tuple[Any, ...], tuple[Callable[..., Any] | None, pytree.TreeSpec | None]] = {}
        self._methods: list[Method] = []  # kept alive, since their identity is part of the key

    def __call__(self, estimate: Estimate) -> tuple[list[Any], pytree.TreeSpec]:
        """The outputs of the estimate, and their structure."""
        if estimate.key not in self._graphs:
            if len(self._graphs) == MOST:
                warnings.warn(
                    f"{MOST} graphs have been compiled; further methods or sizes run uncompiled", stacklevel=2
                )
            self._methods.append(estimate.method)
            self._graphs[estimate.key] = _compiled(estimate) if len(self._graphs) < MOST else (None, None)
        graph, spec = self._graphs[estimate.key]
        if graph is None or spec is None:
            return estimate.compute(estimate.tensors)
        with torch.no_grad():
            torch.compiler.cudagraph_mark_step_begin()
            return [_own(t) for t in graph(*estimate.tensors)], spec


def _compiled(estimate: Estimate) -> tuple[Callable[..., Any] | None, pytree.TreeSpec | None]:
    """The compiled graph and the structure of its outputs; (None, None) if the estimate cannot be compiled."""
    specs: list[pytree.TreeSpec] = []

    def flattened(*tensors: Tensor) -> list[Tensor]:
        outputs, spec = estimate.compute(tensors)
        specs.append(spec)
        return outputs

    start = time.perf_counter()
    on_gpu = estimate.tensors[0].device.type == "cuda"
    try:
        if not _torch.has("tracing"):
            raise RuntimeError("this release of PyTorch has no make_fx")
        graph = _torch.trace(flattened)(*estimate.tensors)
        # On a GPU, this mode replays recorded launches (CUDA graphs), so the host is not in the loop.
        compiled = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_gpu else None)
        with torch.no_grad():
            outputs = [_own(t) for t in compiled(*estimate.tensors)]
        if not _agree(outputs, estimate):
            raise RuntimeError("the compiled graph gives other values than the ordinary computation")
    except Exception as error:
        warnings.warn(f"this meta-gradient cannot be compiled and runs uncompiled: {first_line(error)}", stacklevel=2)
        return None, None
    _log.info("compiled a meta-gradient in %.0f s", time.perf_counter() - start)
    return compiled, specs[-1]


def _agree(outputs: list[Any], estimate: Estimate) -> bool:
    """Whether a compiled graph's outputs are the ordinary ones, but for rounding. Random ones cannot be compared."""
    first, again = (estimate.compute(estimate.tensors)[0] for _ in range(2))
    pairs = [(a, b, c) for a, b, c in zip(outputs, first, again, strict=True) if isinstance(b, Tensor)]
    if not all(torch.equal(b, c) for _, b, c in pairs):
        return True
    return all((a.double() - b.double()).norm() <= TOLERANCE * (b.double().norm() + 1e-6) for a, b, _ in pairs)


def _own(output: Any) -> Any:
    """The output itself, or a copy of it if the next replay would overwrite it."""
    return output.clone() if isinstance(output, Tensor) and output.is_cuda else output
