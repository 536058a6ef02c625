"""Pure: decisions. Facts in, answer and reasons out; the hard part needs no mock."""
