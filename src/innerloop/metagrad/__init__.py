"""How to differentiate the outer objective with respect to the meta-parameters."""

from innerloop.metagrad.base import Info, MetaGradient
from innerloop.metagrad.chaser import chaser
from innerloop.metagrad.checkpointed import checkpointed
from innerloop.metagrad.displacement import displacement
from innerloop.metagrad.implicit import implicit
from innerloop.metagrad.mixed_mode import mixed_mode
from innerloop.metagrad.scored import first_order, unrolled
from innerloop.metagrad.trajectory import trajectory
from innerloop.metagrad.untrained import untrained

__all__ = [
    "Info",
    "MetaGradient",
    "chaser",
    "checkpointed",
    "displacement",
    "first_order",
    "implicit",
    "mixed_mode",
    "trajectory",
    "unrolled",
    "untrained",
]
