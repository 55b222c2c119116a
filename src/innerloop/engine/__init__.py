"""The engine: everything that makes the computation fast. It does not change the results."""
