"""Bundles shown to people: read without believing."""
