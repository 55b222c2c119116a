"""THE inner loop, and what it is made of."""
