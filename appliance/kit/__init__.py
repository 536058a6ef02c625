"""Edge helpers that know nothing of AI or fleets."""
