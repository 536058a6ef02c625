"""Pure: the words everyone uses. No clock, no disk, no network, no randomness."""
