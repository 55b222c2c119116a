"""Networks of the few-shot literature, and wrappers that add context, particles or warp layers to any network."""

from collections.abc import Callable

from torch import nn

from innerloop.nets.context import conv4_with_context, mlp_with_context, with_context
from innerloop.nets.conv4 import conv4
from innerloop.nets.mlp import mlp
from innerloop.nets.particles import conv4_with_particles, mlp_with_particles, with_particles
from innerloop.nets.pixels import Neighbours, pixels
from innerloop.nets.resnet12 import resnet12
from innerloop.nets.warps import conv4_with_warps, mlp_with_warps, with_warps

__all__ = [
    "NETS",
    "Neighbours",
    "conv4",
    "conv4_with_context",
    "conv4_with_particles",
    "conv4_with_warps",
    "mlp",
    "mlp_with_context",
    "mlp_with_particles",
    "mlp_with_warps",
    "pixels",
    "resnet12",
    "with_context",
    "with_particles",
    "with_warps",
]

NETS: dict[str, Callable[..., nn.Module]] = {
    "conv4": conv4,
    "conv4_with_context": conv4_with_context,
    "conv4_with_particles": conv4_with_particles,
    "mlp": mlp,
    "mlp_with_context": mlp_with_context,
    "mlp_with_particles": mlp_with_particles,
    "conv4_with_warps": conv4_with_warps,
    "mlp_with_warps": mlp_with_warps,
    "pixels": pixels,
    "resnet12": resnet12,
}
"""The functions that make a network, by the name that a recipe or a saved learner uses."""
