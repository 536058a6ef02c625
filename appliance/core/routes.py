"""The route snapshot: all that the gateway knows.

The controller replaces the file atomically; the gateway goes on with the last one when the
controller is down.
"""

from dataclasses import asdict, dataclass
from typing import Any

from appliance.core import wire
from appliance.errors import MalformedError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine that answers: its replica and the path of its Unix socket."""

    replica: str
    socket: str


@dataclass(frozen=True, slots=True)
class Route:
    """One model name. ``cannot`` says why it will not start, when that is known."""

    model: str
    capabilities: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    cannot: str = ""
    retry_after_s: int = 5


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, by the SHA-256 of its text; the text itself is kept nowhere."""

    id: str
    tenant: str
    sha256: str


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """Everything the gateway serves, at one moment.

    ``needs_key`` stays true once a key was made: to revoke the last one lets nobody in.
    """

    routes: tuple[Route, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    needs_key: bool = False

    def route(self, model: str) -> Route | None:
        """Return the route of one model name."""
        return next((r for r in self.routes if r.model == model), None)

    def dump(self) -> bytes:
        """Return the file's content."""
        return wire.dumps({"version": VERSION, **asdict(self)})

    @classmethod
    def load(cls, data: bytes) -> "RouteSnapshot":
        """Return the snapshot in a file's content.

        Raises:
            MalformedError: not a snapshot, or of another version.
        """
        found = wire.loads(data, what="the route snapshot")
        if found.get("version") != VERSION:
            raise MalformedError(f"the route snapshot has version {found.get('version')!r}")
        try:
            return cls(
                tuple(_route(r) for r in found["routes"]),
                tuple(ApiKey(**k) for k in found["keys"]),
                found["needs_key"] is not False,
            )
        except (KeyError, TypeError) as error:
            raise MalformedError(f"the route snapshot lacks or repeats {error}") from error


def _route(data: dict[str, Any]) -> Route:
    return Route(
        **{
            **data,
            "capabilities": tuple(data["capabilities"]),
            "endpoints": tuple(Endpoint(**e) for e in data["endpoints"]),
        }
    )
