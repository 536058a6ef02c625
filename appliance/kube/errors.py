"""What an API server answers, as errors of ours."""

from collections.abc import Sequence

from appliance.errors import ApplianceError


class ForbiddenError(ApplianceError):
    """The API server knows us, or does not, and either way says no."""

    code = "forbidden"
    exit_code = 10


class ConflictError(ApplianceError):
    """Somebody else changed or owns what we wanted to write; read again before trying again.

    ``fields`` are the paths that other field managers own, when server-side apply named them.
    """

    code = "conflict"
    exit_code = 11

    def __init__(self, what: str, *, hint: str | None = None, fields: Sequence[str] = ()) -> None:
        super().__init__(what, hint=hint)
        self.fields = tuple(fields)


class ExistsError(ConflictError):
    """There is an object of this name already."""


class GoneError(Exception):
    """The version that a watch began at is forgotten; list again. Never leaves ``kube/``."""
