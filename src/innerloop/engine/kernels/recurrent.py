"""Recurrent layers as plain tensor operations. They can be mapped, and differentiated any number of times.

PyTorch's own recurrent layers are single operations without a rule for ``vmap``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Cell", "gru_cell", "lstm_cell", "plain_cell", "recurrent"]

State = tuple[Tensor, ...]
"""The state of a layer: tensors ``[N, H]``. The first is the layer's output."""

Cell = Callable[[Tensor, Tensor, State], State]
"""``(input's part [N, G], hidden state's part [N, G], state) -> state``. The parts are products with weights."""

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``(x, weights, bias) -> output``: a product with weights."""


def lstm_cell(given: Tensor, kept: Tensor, state: State) -> State:
    """One step of an LSTM. The state is the hidden state and the cell state."""
    i, f, g, o = (given + kept).chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def gru_cell(given: Tensor, kept: Tensor, state: State) -> State:
    """One step of a gated recurrent unit, as cuDNN and PyTorch define it."""
    (r, z, n), (kept_r, kept_z, kept_n) = given.chunk(3, -1), kept.chunk(3, -1)
    new = (n + (r + kept_r).sigmoid() * kept_n).tanh()
    return (new + (z + kept_z).sigmoid() * (state[0] - new),)


def plain_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    """One step of an Elman network."""
    return lambda given, kept, state: (activation(given + kept),)


def recurrent(
    cell: Cell,
    x: Tensor,
    states: State,
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    *,
    linear: Linear = F.linear,
) -> tuple[Tensor, State]:
    """The result of ``torch.lstm``, ``torch.gru`` or their kind, for a batch of sequences of one length.

    Args:
        cell: one step of the recurrence.
        x: the inputs ``[S, N, F]``, or ``[N, S, F]`` with ``batch_first``.
        states: the first states, each ``[layers * directions, N, H]``.
        weights: for each layer and direction: the weights of the input, the weights of the hidden state, their biases
            if any, and the projection of the hidden state if any.
        has_biases: whether there are biases.
        layers: the number of layers on top of each other.
        dropout: the probability of dropout between layers.
        training: whether dropout is active.
        bidirectional: whether there is a second direction, from the end.
        batch_first: see ``x``.
        linear: the product with weights, ``(x, weights, bias) -> output``.

    Returns:
        The outputs, of the shape of ``x`` with the features of all directions, and the last states.

    Example:
        >>> net, x, h = torch.nn.GRU(3, 4), torch.randn(5, 2, 3), torch.zeros(1, 2, 4)
        >>> y, _ = recurrent(gru_cell, x, (h,), net._flat_weights, True, 1, 0.0, False, False, False)
        >>> torch.allclose(y, net(x)[0], atol=1e-6)
        True
    """
    x = x.transpose(0, 1) if batch_first else x
    directions = 1 + bidirectional
    each = len(weights) // (layers * directions)
    ends: list[State] = []
    for layer in range(layers):
        sides = []
        for backwards in range(directions):
            index = layer * directions + backwards
            w_input, w_hidden, *others = weights[index * each : (index + 1) * each]
            b_input, b_hidden = others[:2] if has_biases else (None, None)
            projection = others[-1] if len(others) % 2 else None
            given = linear(x, w_input, b_input).unbind(0)
            state = tuple(s[index] for s in states)
            outputs = []
            for step in reversed(given) if backwards else given:
                state = cell(step, linear(state[0], w_hidden, b_hidden), state)
                if projection is not None:
                    state = (linear(state[0], projection, None), *state[1:])
                outputs.append(state[0])
            sides.append(torch.stack(outputs[::-1] if backwards else outputs))
            ends.append(state)
        x = torch.cat(sides, -1) if bidirectional else sides[0]
        if dropout and layer < layers - 1:
            x = F.dropout(x, dropout, training)
    return x.transpose(0, 1) if batch_first else x, tuple(torch.stack(s) for s in zip(*ends, strict=True))
