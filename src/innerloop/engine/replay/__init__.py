"""Recordings: repeated meta-gradients are computed from a recording of their operations."""

from innerloop.engine.replay.replays import Replay, Replays, checked_replay

__all__ = ["Replay", "Replays", "checked_replay"]
