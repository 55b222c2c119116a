"""Evaluation on new tasks, by the papers' protocols."""
