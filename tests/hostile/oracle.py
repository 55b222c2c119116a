"""The plain loops that every result is compared with.

Nothing here comes from the library. A task is adapted to in a Python loop, with ``torch.autograd.grad`` for each inner
gradient. The module that is called is the user's own, or a copy of it that is made at the moment of the call.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

Kind = Literal["maml", "fomaml", "reptile"]
LossFn = Callable[[Tensor, Tensor], Tensor]
Grads = dict[str, Tensor]


@dataclass
class Answer:
    """What the plain loops give: the mean of the tasks' meta-gradients, and their query losses."""

    grads: Grads
    losses: list[Tensor] = field(default_factory=list)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it, torch's operations are not shared among threads: for small tensors that takes far longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def meta_gradient(
    net: nn.Module,
    tasks: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    loss_fn: LossFn,
    *,
    kind: Kind = "maml",
    lr: float = 0.1,
    steps: int = 1,
    copied: bool = True,
    inner_loss: LossFn | None = None,
    start: Callable[[str, Tensor], Tensor] | None = None,
    weights: Sequence[float] | None = None,
) -> Answer:
    """The meta-gradient of MAML, FOMAML or Reptile (by SGD on the whole support set), one task after the other.

    Args:
        net: the user's module.
        tasks: for each task its support inputs and targets, and its query inputs and targets.
        loss_fn: the loss of one task.
        kind: the method.
        lr: the inner learning rate.
        steps: the number of inner steps.
        copied: whether a copy of the module is called, so that its forward pass cannot change the user's.
        inner_loss: the loss of the inner loop, where it is another one.
        start: from a parameter's name and value to where the inner loop starts.
        weights: those of the query losses at the iterates 0..K; the last one alone by default.
    """
    module = copy.deepcopy(net) if copied else net
    theta = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(p) for name, p in theta.items()}
    answer = Answer({})
    with torch.enable_grad():
        for support_x, support_y, query_x, query_y in tasks:
            fast = {name: start(name, p) if start else p for name, p in theta.items()}
            iterates = [fast]
            for _ in range(steps):
                loss = (inner_loss or loss_fn)(call(module, fast, support_x), support_y)
                inner = gradients(loss, fast, create_graph=kind == "maml")
                fast = {name: p - lr * inner[name] for name, p in fast.items()}
                iterates.append(fast)
            if kind == "reptile":
                found = {name: p.detach() - fast[name].detach() for name, p in theta.items()}
            else:
                scored = weights or [*[0.0] * steps, 1.0]
                pairs = [(w, at) for w, at in zip(scored, iterates, strict=True) if w]
                loss = sum(w * loss_fn(call(module, at, query_x), query_y) for w, at in pairs)
                answer.losses.append(loss.detach())
                found = gradients(loss, theta)
            sums = {name: total + found[name].detach() for name, total in sums.items()}
    answer.grads = {name: total / len(tasks) for name, total in sums.items()}
    return answer


@one_thread()
def adapted(
    net: nn.Module, support_x: Tensor, support_y: Tensor, loss_fn: LossFn, *, lr: float = 0.1, steps: int = 1
) -> Grads:
    """The parameters after the inner loop of one task, with dropout and the like off."""
    module = copy.deepcopy(net).eval()
    fast = {name: p.detach().clone() for name, p in net.named_parameters() if p.requires_grad}
    for _ in range(steps):
        at = {name: p.detach().requires_grad_() for name, p in fast.items()}
        inner = gradients(loss_fn(call(module, at, support_x), support_y), at)
        fast = {name: p.detach() - lr * inner[name] for name, p in at.items()}
    return fast


def gradients(loss: Tensor, params: Mapping[str, Tensor], *, create_graph: bool = False) -> Grads:
    """The gradient by name; of zeros where the loss does not use a parameter."""
    found = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, allow_unused=True)
    pairs = zip(params.items(), found, strict=True)
    return {name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in pairs}


def call(module: nn.Module, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """The module's output at these parameters, for an input that it may write to."""
    with swapped(module, params):
        output: Tensor = module(x.clone())
    return output


@contextlib.contextmanager
def swapped(module: nn.Module, params: Mapping[str, Tensor]) -> Iterator[None]:
    """The module with these tensors wherever the parameters of these names are registered.

    Its buffers are copies meanwhile. Batch norm normalises by the statistics of the batch, as meta-training does.
    """
    own = {id(p): params[name] for name, p in module.named_parameters() if name in params}
    undo: list[tuple[dict[str, object], str, object]] = []

    def put(where: dict[str, object], key: str, value: object) -> None:
        undo.append((where, key, where[key]))
        where[key] = value

    copies: dict[int, Tensor] = {}
    try:
        for layer in module.modules():
            for key, parameter in layer._parameters.items():
                if id(parameter) in own:
                    put(layer._parameters, key, own[id(parameter)])
            batch_only = isinstance(layer, _NormBase)
            for key, buffer in layer._buffers.items():
                if batch_only:
                    put(layer._buffers, key, None)
                elif buffer is not None:
                    put(layer._buffers, key, copies.setdefault(id(buffer), buffer.clone()))
            if batch_only:
                put(vars(layer), "track_running_stats", False)
        yield
    finally:
        for where, key, value in reversed(undo):
            where[key] = value
