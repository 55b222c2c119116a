"""Ways in which the library could be silently wrong, each compared with a plain loop."""
