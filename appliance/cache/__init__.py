"""The content-addressed store of weights, and the catalogue of what it holds."""
