"""Meta-gradients that come again and again, from a recording of what they do."""

from innerloop.engine.replay.replays import Replays

__all__ = ["Replays"]
