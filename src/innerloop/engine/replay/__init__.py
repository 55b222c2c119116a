"""Meta-gradients that come again and again, from a recording of what they do."""

from innerloop.engine.replay.replays import Replay, Replays, checked_replay

__all__ = ["Replay", "Replays", "checked_replay"]
