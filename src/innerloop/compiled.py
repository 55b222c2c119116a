"""Meta-gradients as compiled graphs.

``torch.compile`` does not differentiate twice. So the whole estimate, inner loop and derivatives and all, is first
traced into a graph of plain tensor operations, and that graph is compiled: nothing in it is left to differentiate.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from innerloop.episode import Episode
from innerloop.messages import first_line
from innerloop.metagrad.base import Info
from innerloop.method import Method
from innerloop.params import Params
from innerloop.unroll import Problem, Support

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

    def __call__(
        self,
        method: Method,
        problem: Problem,
        meta_params: Mapping[str, Tensor],
        chunk: Episode,
        support: Support,
    ) -> tuple[Params, Info]:
        """As the method's meta-gradient."""
        tensors = (dict(meta_params), (chunk.query_x, chunk.query_y), (support.x, support.y), support.batches)
        flat, spec = pytree.tree_flatten((tensors, support.state))

        def estimate(*flat: Tensor) -> tuple[Any, ...]:
            (meta, queries, (x, y), batches), state = pytree.tree_unflatten(list(flat), spec)
            episode, inputs = Episode(x, y, *queries), Support(x, y, batches, state)
            grads, info = method.meta_gradient(problem, method.adaptation, meta, episode, inputs)
            return grads, info.loss, info.support_losses, info.query_accuracy, info.rule_state

        shapes = tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else t for t in flat)
        key = (id(method), problem.batched, torch.is_autocast_enabled(flat[0].device.type), str(spec), shapes)
        if key not in self._graphs:
            if len(self._graphs) == MOST:
                warnings.warn(
                    f"{MOST} graphs have been compiled; methods or sizes after these run as they are", stacklevel=2
                )
            self._methods.append(method)
            self._graphs[key] = _compiled(estimate, flat) if len(self._graphs) < MOST else (None, None)
        graph, result_spec = self._graphs[key]
        if graph is None or result_spec is None:
            outputs = estimate(*flat)
        else:
            with torch.no_grad():
                torch.compiler.cudagraph_mark_step_begin()
                outputs = pytree.tree_unflatten([_own(t) for t in graph(*flat)], result_spec)
        grads, *observed = outputs
        return grads, Info(*observed)


def _compiled(
    estimate: Callable[..., tuple[Any, ...]], flat: list[Tensor]
) -> tuple[Callable[..., Any] | None, pytree.TreeSpec | None]:
    """The compiled graph and the structure of what it returns; (None, None) where there is no such graph."""
    specs: list[pytree.TreeSpec] = []

    def flattened(*flat: Tensor) -> list[Tensor]:
        outputs, spec = pytree.tree_flatten(estimate(*flat))
        specs.append(spec)
        return outputs

    start = time.perf_counter()
    on_gpu = flat[0].device.type == "cuda"
    try:
        graph = make_fx(flattened)(*flat)
        # On a GPU, replaying recorded launches (CUDA graphs) takes the host out of the loop.
        compiled = torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_gpu else None)
        with torch.no_grad():
            compiled(*flat)
    except Exception as error:
        warnings.warn(f"this meta-gradient cannot be compiled and runs as it is: {first_line(error)}", stacklevel=2)
        return None, None
    _log.info("compiled a meta-gradient in %.0f s", time.perf_counter() - start)
    return compiled, specs[-1]


def _own(output: Any) -> Any:
    """A result that the next replay does not overwrite."""
    return output.clone() if isinstance(output, Tensor) and output.is_cuda else output
