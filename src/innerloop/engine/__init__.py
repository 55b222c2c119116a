"""How it is made fast, and nothing else."""
