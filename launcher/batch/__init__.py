"""Many requests from a file: each is answered exactly once, whatever is killed when."""
