"""Meta-gradients as compiled graphs.

``torch.compile`` does not differentiate twice. So the whole estimate, inner loop and derivatives and all, is first
traced into a graph of plain tensor operations, and that graph is compiled: nothing in it is left to differentiate.
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
"""Graphs that one engine compiles, lest a method that changes with every iteration do nothing but compile."""


class CompiledEstimates:
    """Estimates of one model, compiled once for each method and each size of episode.

    A graph that cannot be traced or compiled is reported in a warning, and run as it is from then on.
    """

    def __init__(self) -> None:
        self._graphs: dict[tuple[Any, ...], tuple[Callable[..., Any] | None, pytree.TreeSpec | None]] = {}
        self._methods: list[Method] = []  # kept alive, since their identity is part of the key

    def __call__(self, estimate: Estimate) -> tuple[list[Any], pytree.TreeSpec]:
        """What the estimate computes from its tensors, and how it is read."""
        if estimate.key not in self._graphs:
            if len(self._graphs) == MOST:
                warnings.warn(
                    f"{MOST} graphs have been compiled; methods or sizes after these run as they are", stacklevel=2
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
    """The compiled graph and the structure of what it returns; (None, None) where there is no such graph."""
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
        # On a GPU, replaying recorded launches (CUDA graphs) takes the host out of the loop.
        compiled = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_gpu else None)
        with torch.no_grad():
            compiled(*estimate.tensors)
    except Exception as error:
        warnings.warn(f"this meta-gradient cannot be compiled and runs as it is: {first_line(error)}", stacklevel=2)
        return None, None
    _log.info("compiled a meta-gradient in %.0f s", time.perf_counter() - start)
    return compiled, specs[-1]


def _own(output: Any) -> Any:
    """A result that the next replay does not overwrite."""
    return output.clone() if isinstance(output, Tensor) and output.is_cuda else output
