"""One log between node and hub: topics, signed batches, and the road they travel."""
