"""Linear layers of many tasks. Each task has its own weights, or all tasks share them.

A linear layer is bilinear in its input and its weights. So are its two gradients, and the three are each other's
derivatives. Let F(x, w) = x wᵀ be the output, X(g, w) = g w the gradient of the input, and W(x, g) = gᵀ x the gradient
of the weights. Then

    dF = (X(g, w), W(x, g)),   dX = (F(u, w), W(u, g)),   dW = (X(g, v), F(x, v)),

which gives derivatives of every order. Each is one product for each task, over all its rows. If the tasks share the
weights, it is one product over the rows of all tasks.

Weights may be used several times: by the steps of a recurrent layer, and by both F and X in a second derivative.
Autograd would compute a product for each use and add them up. With few rows the additions cost more than the products.
So the uses in one forward pass share a :class:`_Uses`. The backward passes of F and X note their pairs ``(x, g)``
there. When all uses are differentiated, the pairs are summed by one product. Autograd tells when that is: each use
takes the output of one more node as an input, and autograd differentiates that node after all uses. If all tasks start
from one set of weights, the sum over tasks is taken there, too.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from innerloop.engine import _torch
from innerloop.engine.kernels.layout import apply, by_task, own_axes
from innerloop.params import SharedByTasks

__all__ = ["Weights", "linear"]

FEW = 64
"""The number of rows of a task up to which the pairs are joined before one product. Larger ones are multiplied
separately."""


class Weights:
    """The weights ``[..., O, I]`` of a linear layer in one forward pass. The leading axes are tasks, and may be 1.

    Example:
        >>> x, w = torch.randn(4, 10, 3), torch.randn(4, 2, 3, requires_grad=True)
        >>> torch.allclose(linear(x, Weights(w)), x @ w.mT, atol=1e-6)
        True
    """

    def __init__(self, w: Tensor) -> None:
        self.value = w.detach()
        self.uses: _Uses | None = None
        if w.requires_grad and torch.is_grad_enabled():
            self.uses = _Uses(w)


def linear(x: Tensor, weights: Weights, bias: Tensor | None = None) -> Tensor:
    """The layer's output ``[..., N, O]`` for an input ``[..., N, I]``. The leading axes are those of the weights.

    Args:
        x: the input.
        weights: the weights.
        bias: the bias ``[..., O]``, with leading axes like those of the weights, or None.
    """
    end = None if weights.uses is None else weights.uses.end
    output: Tensor = apply(_Output, x, weights.value, bias, weights.uses, end)
    return output


class _Uses:
    """All uses of one tensor of weights in a forward pass.

    Attributes:
        end: the output of the node that autograd differentiates after all uses.
    """

    def __init__(self, w: Tensor) -> None:
        if _torch.current_pass() == _torch.NO_PASS:
            _noted.pairs.clear()  # left over from a backward pass that ended in an error
        found = _shared_source(w)
        beyond, source = (None, None) if found is None else found
        self._key = object()  # a separate object: if the node held self, neither would ever be freed
        self.end: Tensor = _End.apply(w, source, beyond, self._key)
        self._node = self.end.grad_fn

    def note(self, x: Tensor, g: Tensor) -> None:
        """Note that W(x, g) is part of the gradient, if this backward pass computes that gradient."""
        if _torch.pass_reaches(self._node):
            _noted.pairs.setdefault((_torch.current_pass(), self._key), []).extend((x, g))


class _Noted(threading.local):
    """The pairs that the backward pass of this thread has noted, for each tensor of weights."""

    def __init__(self) -> None:
        self.pairs: dict[tuple[int, object], list[Tensor]] = {}


_noted = _Noted()


class _End(Function):
    """A node before all uses of the weights. So the backward pass reaches it after all of them."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, source: Tensor | None, beyond: Any, key: object) -> Tensor:
        ctx.shapes = w.shape, None if source is None else source.shape
        ctx.beyond, ctx.key = beyond, key
        return w.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        pairs = _noted.pairs.pop((_torch.current_pass(), ctx.key), None)
        if pairs is None:
            return (None,) * 4
        # If this pass goes on to the tensor that all tasks share, it needs only the sum over tasks.
        if ctx.beyond is not None and _torch.pass_reaches(ctx.beyond):
            return None, apply(_WeightGradient, ctx.shapes[1], *pairs), None, None
        return apply(_WeightGradient, ctx.shapes[0], *pairs), None, None, None


class _Output(Function):
    """The output, F(x, w) + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, uses: _Uses | None, end: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, end)
        ctx.uses, ctx.bias = uses, None if b is None else b.shape
        stack, shape = x.shape[: w.ndim - 2], (*x.shape[:-1], w.shape[-2])
        rows, matrices = _matched(x, w, stack)
        if b is None:
            return torch.bmm(rows, matrices.mT).view(shape)
        biases = by_task(b.unsqueeze(-2), stack)
        if len(biases) in (1, len(rows)):
            return torch.baddbmm(biases, rows, matrices.mT).view(shape)
        # The tasks share the weights but not the bias, or the bias but not the weights.
        return torch.bmm(rows, matrices.mT).view(len(biases), -1, shape[-1]).add_(biases).view(shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, ...]:
        if g is None:
            return (None,) * 5
        x, w, end = ctx.saved_tensors
        if ctx.uses is not None:
            ctx.uses.note(x, g)
        gx = apply(_InputGradient, g, w, ctx.uses, end) if ctx.needs_input_grad[0] else None
        gb = None
        if ctx.needs_input_grad[2]:
            stack = g.shape[: len(ctx.bias) - 1]
            gb = g.reshape(*stack, -1, g.shape[-1]).sum(-2).sum_to_size(ctx.bias)
        return gx, None, gb, None, None


class _InputGradient(Function):
    """The gradient of the input, X(g, w)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, uses: _Uses | None, end: Tensor | None) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, w, end)
        ctx.uses = uses
        rows, matrices = _matched(g, w, g.shape[: w.ndim - 2])
        return torch.bmm(rows, matrices).view(*g.shape[:-1], w.shape[-1])

    @staticmethod
    def backward(ctx: Any, u: Tensor | None) -> tuple[Tensor | None, ...]:
        if u is None:
            return (None,) * 4
        g, w, end = ctx.saved_tensors
        if ctx.uses is not None:
            ctx.uses.note(u, g)
        return apply(_Output, u, w, None, ctx.uses, end) if ctx.needs_input_grad[0] else None, None, None, None


class _WeightGradient(Function):
    """The gradient of the weights: W(x, g) summed over all pairs, and over the leading axes that the weights lack."""

    @staticmethod
    def forward(ctx: Any, shape: Sequence[int], *pairs: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*pairs)
        tasks_of_w = shape[:-2]
        stack = pairs[0].shape[: len(tasks_of_w)]
        own = own_axes(tasks_of_w)
        tasks = prod(stack[:own])
        xs, gs = ([t.reshape(tasks, -1, t.shape[-1]) for t in pairs[i::2]] for i in (0, 1))
        if len(xs) > 1 and max(x.shape[1] for x in xs) <= FEW:
            xs, gs = [torch.cat(xs, 1)], [torch.cat(gs, 1)]
        w = torch.bmm(gs[0].mT, xs[0])
        for x, g in zip(xs[1:], gs[1:], strict=True):
            w.baddbmm_(g.mT, x)
        w = w.view(*stack[:own], *(1,) * (len(tasks_of_w) - own), *shape[-2:])
        return w if w.shape == shape else w.sum_to_size(shape)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = ctx.saved_tensors
        if v is None:
            return (None,) * (1 + len(pairs))
        grads: list[Tensor | None] = [None]
        weights = Weights(v)
        end = None if weights.uses is None else weights.uses.end
        for index, (x, g) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            of_x, of_g = ctx.needs_input_grad[1 + 2 * index : 3 + 2 * index]
            grads.append(apply(_InputGradient, g, weights.value, weights.uses, end) if of_x else None)
            grads.append(linear(x, weights) if of_g else None)
        return tuple(grads)


def _shared_source(t: Tensor) -> tuple[Any, Tensor] | None:
    """If the tasks in ``t`` share one tensor: the graph's node that expands it, and that tensor. Otherwise None.

    ``t`` is a view (:func:`innerloop.params.aliased`) of a result of :func:`innerloop.params.expand_tasks`. A backward
    pass that ends at the view does not reach the node.
    """
    if t.grad_fn is None or len(t.grad_fn.next_functions) != 1:
        return None
    node: Any = t.grad_fn.next_functions[0][0]
    if node is None or node.name() != f"{SharedByTasks.__name__}Backward":
        return None
    source = getattr(node, "source", None)  # a node is the ``ctx`` of the function's forward pass
    if not isinstance(source, Tensor) or t.shape[1:] != source.shape or t.stride(0):
        return None
    return node, source


def _matched(x: Tensor, w: Tensor, stack: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows ``[T, R, F]`` and their matrices ``[T, O, I]``. T is 1 if all tasks share the matrix."""
    w = by_task(w, stack)
    return x.reshape(len(w), -1, x.shape[-1]), w
