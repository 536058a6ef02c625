"""What an API server answers, as errors of ours."""

from appliance.errors import ConflictError, ForbiddenError

__all__ = ["ConflictError", "ExistsError", "ForbiddenError", "GoneError"]


class ExistsError(ConflictError):
    """There is an object of this name already."""


class GoneError(Exception):
    """The version that a watch began at is forgotten; list again. Never leaves ``kube/``."""
