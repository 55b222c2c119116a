"""Context parameters for any network, for CAVIA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from innerloop.nets.conv4 import conv4
from innerloop.nets.mlp import mlp

__all__ = ["WithContext", "conv4_with_context", "mlp_with_context", "with_context"]


class WithContext(nn.Module):
    """A network with context parameters. :func:`with_context` makes it."""

    def __init__(self, net: nn.Module, size: int, at: str | None, features: int | None) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.zeros(size))
        self.film = nn.Linear(size, 2 * features, bias=False) if features else None
        self.net = net
        if at is not None:
            net.get_submodule(at).register_forward_hook(self._modulate)

    def forward(self, x: Tensor) -> Tensor:
        """Map a batch ``[N, ...]`` to the network's outputs."""
        if self.film is None:
            x = torch.cat([x, self.context.expand(x.shape[0], -1)], 1)
        output: Tensor = self.net(x)
        return output

    def _modulate(self, module: nn.Module, inputs: Any, features: Tensor) -> Tensor:
        """``(1 + γ) h + β`` for features ``h`` of ``[N, C, ...]``, with γ and β linear in the context."""
        assert self.film is not None
        shape = (-1, *[1] * (features.ndim - 2))
        gamma, beta = self.film(self.context).chunk(2)
        modulated: Tensor = features * (1 + gamma.view(shape)) + beta.view(shape)
        return modulated


def with_context(net: nn.Module, size: int, *, at: str | None = None, features: int | None = None) -> nn.Module:
    r"""Give a network ``size`` context parameters.

    They are named ``context``. The names of the network's own parameters begin with ``net.``.

    Without ``at`` the context is appended to the features of each example, as in CAVIA's regression. With ``at`` it
    modulates the output of a layer, channel by channel (FiLM), as in CAVIA's image classification:

    .. math:: h_c \leftarrow (1 + \gamma_c) h_c + \beta_c, \qquad (\gamma, \beta) = W \phi

    A context φ of zero leaves the layer's output unchanged.

    Args:
        net: the network. It becomes a part of the new one. Without ``at`` it must take ``size`` more inputs than an
            example has.
        size: the number of context parameters.
        at: the name of the layer whose output is modulated.
        features: the number of channels of that output, its second axis.

    Returns:
        A module that is called like the network.

    Raises:
        ValueError: less than one context parameter, only one of ``at`` and ``features``, or a layer that the network
            does not have.

    Example:
        >>> from innerloop.nets import conv4
        >>> net = with_context(conv4(ways=5), size=100, at="body.2.norm", features=64)
        >>> net(torch.zeros(2, 1, 28, 28)).shape, net.context.shape
        (torch.Size([2, 5]), torch.Size([100]))
    """
    if size < 1:
        raise ValueError(f"size is {size}; there must be at least 1 context parameter")
    if (at is None) is not (features is None) or (features is not None and features < 1):
        raise ValueError(f"at is {at!r} and features is {features}; give both, a layer and its channels, or neither")
    names = [name for name, _ in net.named_modules()]
    if at is not None and at not in names:
        raise ValueError(f"the network has no layer {at!r}; it has {', '.join(filter(None, names))}")
    return WithContext(net, size, at, features)


def mlp_with_context(size: int, *, inputs: int = 1, **arguments: Any) -> nn.Module:
    """A multi-layer perceptron with context parameters as further inputs. The other arguments are those of ``mlp``.

    With ``size=5`` and the defaults it is the sinusoid network of CAVIA.

    Example:
        >>> mlp_with_context(5)(torch.zeros(10, 1)).shape
        torch.Size([10, 1])
    """
    return with_context(mlp(inputs + size, **arguments), size)


def conv4_with_context(size: int, *, filters: int = 64, **arguments: Any) -> nn.Module:
    """A ``conv4`` whose third block is modulated by a context. The other arguments are those of ``conv4``.

    Example:
        >>> conv4_with_context(100, ways=5)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    return with_context(conv4(filters=filters, **arguments), size, at="body.2.norm", features=filters)
