"""``Packing``: a module's parameters in the memory layout of the CPU's kernels."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from innerloop.engine.caller import normal_mode, usual
from innerloop.engine.kernels import pack, packable
from innerloop.inner.meta import Meta
from innerloop.params import map_params

__all__ = ["Packing"]


class Packing:
    """Brings the weights that the kernels read into their layout. The values stay the same.

    Args:
        net: the module. Its structure is read once.
    """

    def __init__(self, net: nn.Module) -> None:
        self._names = frozenset(packable(net))

    def __call__(self, meta: Meta) -> Meta:
        """The same values, in the layout of the kernels."""
        with normal_mode():
            model = {
                name: pack(tensor.detach()) if name in self._names and tensor.is_cpu else tensor
                for name, tensor in map_params(usual, meta.model).items()
            }
        return replace(meta, model=model)
