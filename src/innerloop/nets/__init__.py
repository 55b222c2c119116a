"""Networks of the literature."""

from collections.abc import Callable

from torch import nn

from innerloop.nets.conv4 import conv4
from innerloop.nets.mlp import mlp

__all__ = ["NETS", "conv4", "mlp"]

NETS: dict[str, Callable[..., nn.Module]] = {"conv4": conv4, "mlp": mlp}
"""The functions that make a network, by the name under which a recipe or a saved learner knows them."""
