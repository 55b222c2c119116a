"""The named methods. Each is a composition of parts, in a file of its own."""

from innerloop.methods.alfa import alfa
from innerloop.methods.anil import anil
from innerloop.methods.bmaml import bmaml
from innerloop.methods.boil import boil
from innerloop.methods.cavia import cavia
from innerloop.methods.clamped_meta_sgd import clamped_meta_sgd
from innerloop.methods.finetune import finetune
from innerloop.methods.foml import foml
from innerloop.methods.gap import gap
from innerloop.methods.imaml import imaml
from innerloop.methods.maml import fomaml, maml
from innerloop.methods.maml_plus_plus import maml_plus_plus
from innerloop.methods.meta_curvature import meta_curvature
from innerloop.methods.meta_sgd import meta_sgd
from innerloop.methods.nearest_neighbour import nearest_neighbour
from innerloop.methods.protomaml import protomaml
from innerloop.methods.prototypical import prototypical
from innerloop.methods.reptile import reptile
from innerloop.methods.scratch import scratch
from innerloop.methods.sharp_maml import sharp_maml
from innerloop.methods.t_net import t_net
from innerloop.methods.warpgrad import warpgrad

__all__ = [
    "alfa",
    "anil",
    "bmaml",
    "boil",
    "cavia",
    "clamped_meta_sgd",
    "finetune",
    "fomaml",
    "foml",
    "gap",
    "imaml",
    "maml",
    "maml_plus_plus",
    "meta_curvature",
    "meta_sgd",
    "nearest_neighbour",
    "protomaml",
    "prototypical",
    "reptile",
    "scratch",
    "sharp_maml",
    "t_net",
    "warpgrad",
]
