"""What contracts need of a cluster besides the fixtures that all tests have."""

from tests.helpers.enginepods import engines

__all__ = ["engines"]
