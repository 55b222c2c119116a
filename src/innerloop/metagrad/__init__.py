"""How to differentiate the outer objective with respect to the meta-parameters."""

from innerloop.metagrad.base import Info, MetaGradient
from innerloop.metagrad.displacement import displacement
from innerloop.metagrad.scored import first_order, unrolled

__all__ = ["Info", "MetaGradient", "displacement", "first_order", "unrolled"]
