"""The outer loop, and what it writes: checkpoints, metrics and the best learners."""
