"""The same meta-gradient by other libraries, each written as its own documentation does it."""

from innerloop.bench.peers._base import MetaGradientFn, Peer, Spec, Unavailable, What
from innerloop.bench.peers._higher import higher
from innerloop.bench.peers._iteryne import iteryne
from innerloop.bench.peers._learn2learn import learn2learn
from innerloop.bench.peers._parallel_metalearn import parallel_metalearn
from innerloop.bench.peers._plain import plain_pytorch
from innerloop.bench.peers._torchopt import torchopt

__all__ = ["PEERS", "MetaGradientFn", "Peer", "Spec", "Unavailable", "What"]

PEERS: dict[str, Peer] = {
    "higher": higher,
    "torchopt": torchopt,
    "iteryne": iteryne,
    "parallel-metalearn": parallel_metalearn,
    "learn2learn": learn2learn,
    "plain PyTorch": plain_pytorch,
}
"""Every peer by the name of its package, and the loop that one would write without a library."""
