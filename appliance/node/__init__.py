"""The controller of one node: what is in force, what is seen, and what to do about it."""
