"""How to differentiate the outer objective with respect to the meta-parameters."""

from innerloop.metagrad.base import Info, MetaGradient
from innerloop.metagrad.chaser import Chaser, chaser
from innerloop.metagrad.checkpointed import Checkpointed, checkpointed
from innerloop.metagrad.displacement import Displacement, displacement
from innerloop.metagrad.first_order import FirstOrder, first_order
from innerloop.metagrad.implicit import Implicit, implicit
from innerloop.metagrad.mixed_mode import MixedMode, mixed_mode
from innerloop.metagrad.trajectory import Trajectory, trajectory
from innerloop.metagrad.unrolled import Unrolled, unrolled
from innerloop.metagrad.untrained import Untrained, untrained

__all__ = [
    "Chaser",
    "Checkpointed",
    "Displacement",
    "FirstOrder",
    "Implicit",
    "Info",
    "MetaGradient",
    "MixedMode",
    "Trajectory",
    "Unrolled",
    "Untrained",
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
