"""The route snapshot: all that the gateway knows.

The controller replaces the file atomically; the gateway goes on with the last one when the
controller is down. Gateway and controller are started apart, so either may be of another release:
what a release adds stands beside the routes, where older readers do not look, and a reader passes
over what it does not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.core import wire
from appliance.errors import MalformedError

VERSION = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine that answers, and whose it is.

    ``address`` is the path of a Unix socket, or ``http://IP:PORT``. ``node`` is the machine that it
    runs on where a site has several; empty is this one, or not known.
    """

    replica: str
    address: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One model name. ``cannot`` says why it will not start, when that is known.

    ``wakes``: it is allowed to be off while nobody asks, and a request brings it back.
    """

    model: str
    capabilities: tuple[str, ...]
    endpoints: tuple[Endpoint, ...]
    cannot: str = ""
    retry_after_s: int = 5
    wakes: bool = False


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
        endpoints = [e for route in self.routes for e in route.endpoints]
        return wire.dumps(
            {
                "version": VERSION,
                "routes": [_route_to_wire(r) for r in self.routes],
                "keys": [{"id": k.id, "tenant": k.tenant, "sha256": k.sha256} for k in self.keys],
                "needs_key": self.needs_key,
                "wakes": [r.model for r in self.routes if r.wakes],
                "nodes": {e.address: e.node for e in endpoints if e.node},
            }
        )

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
            wakes, nodes = frozenset(found.get("wakes", ())), found.get("nodes", {})
            return cls(
                tuple(_route(r, wakes, nodes) for r in found["routes"]),
                tuple(ApiKey(k["id"], k["tenant"], k["sha256"]) for k in found["keys"]),
                found["needs_key"] is not False,
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise MalformedError(f"the route snapshot lacks or repeats {error}") from error


def _route_to_wire(route: Route) -> dict[str, Any]:
    return {
        "model": route.model,
        "capabilities": route.capabilities,
        "endpoints": [{"replica": e.replica, "socket": e.address} for e in route.endpoints],
        "cannot": route.cannot,
        "retry_after_s": route.retry_after_s,
    }


def _route(data: dict[str, Any], wakes: frozenset[str], nodes: Mapping[str, str]) -> Route:
    return Route(
        model=data["model"],
        capabilities=tuple(data["capabilities"]),
        endpoints=tuple(
            Endpoint(e["replica"], e["socket"], nodes.get(e["socket"], ""))
            for e in data["endpoints"]
        ),
        cannot=data["cannot"],
        retry_after_s=data["retry_after_s"],
        wakes=data["model"] in wakes,
    )
