"""The fleet side: what nodes said, committed once, and what the fleet asks of them."""
