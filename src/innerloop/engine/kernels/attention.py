"""Multi-head attention, with its products arranged for many tasks at once.

PyTorch's own function computes its projections internally, where nothing can replace them. Under ``vmap`` it copies the
weights for each sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from innerloop.engine.kernels import tasks
from innerloop.engine.kernels.recurrent import Linear

__all__ = ["multi_head_attention"]


def multi_head_attention(
    linear: Linear,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    heads: int,
    w_packed: Tensor | None,
    b_packed: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zeros: bool,
    dropout: float,
    w_out: Tensor,
    b_out: Tensor | None,
    *,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    **others: Any,
) -> tuple[Tensor, Tensor | None] | None:
    """The result of ``F.multi_head_attention_forward`` under ``vmap``, or None if an option is not supported here.

    ``linear`` is ``(x, weights, bias) -> output``. The other arguments are those of PyTorch's function, in its order.
    """
    plain = bias_k is None and bias_v is None and not add_zeros and all(other is None for other in others.values())
    single = query.ndim == 2  # one sequence
    query, key, value = _each(lambda t: t.unsqueeze(0) if single else t.transpose(0, 1), query, key, value)
    fits = query.ndim == key.ndim == value.ndim == 3 and query.shape[-1] == embed_dim and not embed_dim % heads
    sized = key.shape[:2] == value.shape[:2] and len(query) == len(key)
    if not (plain and fits and sized) or (is_causal and attn_mask is None):
        return None
    if query is key and key is value and w_packed is not None and not use_separate_proj_weight:
        q, k, v = linear(query, w_packed, b_packed).chunk(3, -1)
    else:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight) if w_packed is None else w_packed.chunk(3)
        biases = (None,) * 3 if b_packed is None else b_packed.chunk(3)
        pairs = zip((query, key, value), weights, biases, strict=True)
        q, k, v = (linear(x, w, b) for x, w, b in pairs if w is not None)
    mask = _mask(attn_mask, key_padding_mask, heads, q)
    with tasks.outside():
        stack, (q, k, v, mask) = tasks.stacked(q, k, v, shared=(mask,))
        y, attention = _attended(q, k, v, mask, heads, dropout if training else 0.0, need_weights=need_weights)
        if attention is not None and average_attn_weights:
            attention = attention.mean(-3)
    y = linear(stack.unstacked(y), w_out, b_out)
    seen = None if attention is None else stack.unstacked(attention)
    return (y.squeeze(0), None if seen is None else seen.squeeze(0)) if single else (y.transpose(0, 1), seen)


def _attended(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int, dropout: float, *, need_weights: bool
) -> tuple[Tensor, Tensor | None]:
    """The output for queries ``[..., N, L, E]``, of the same shape, and the attention weights ``[..., N, H, L, S]``."""
    *stack, length, features = q.shape
    q, k, v = _each(lambda t: t.unflatten(-1, (heads, -1)).transpose(-3, -2), q, k, v)
    attention = None
    if mask is not None and not need_weights:
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout)  # gives zeros if everything is masked
    else:
        # Contiguous stacks of matrices can be multiplied without copies.
        q, k, v = _each(lambda t: t.flatten(0, -3), q / sqrt(features // heads), k, v)
        scores = torch.bmm(q, k.mT).view(*stack, heads, length, -1)
        attention = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        y = torch.bmm(attention.flatten(0, -3), v).view(*stack, heads, length, -1)
    return y.transpose(-3, -2).flatten(-2), attention if need_weights else None


def _mask(attention: Tensor | None, padding: Tensor | None, heads: int, like: Tensor) -> Tensor | None:
    """The mask to add to the scores ``[N, H, L, S]``, in a shape that fits; None if nothing is masked."""
    if attention is not None:
        attention = _to_add(attention, like)
        if attention.ndim == 3:
            attention = attention.unflatten(0, (-1, heads))
    if padding is not None:
        padding = _to_add(padding, like).reshape(-1, 1, 1, padding.shape[-1])
    if attention is None or padding is None:
        found = padding if attention is None else attention
    else:
        found = attention + padding
    return found if found is None or found.ndim == 4 else found[None, None]


def _to_add(mask: Tensor, like: Tensor) -> Tensor:
    """Convert a mask to numbers to add. In a mask of booleans, True means masked."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def _each(fn: Callable[[Tensor], Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    """Apply ``fn`` to each tensor. Equal arguments give the same result object."""
    made = {key: fn(t) for key, t in {id(t): t for t in tensors}.items()}
    return tuple(made[id(t)] for t in tensors)
