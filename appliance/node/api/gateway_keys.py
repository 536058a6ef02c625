"""API keys of the gateway."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.core import ids
from appliance.errors import UsageError
from appliance.ledger.streams import Fact, Stream
from appliance.node import keys
from appliance.node.api.answers import object_of, route, who
from appliance.node.api.services import LocalServices


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Keys(services)
    return [
        route("GET", "/v1/gateway/keys", group.all),
        route("POST", "/v1/gateway/keys", group.create),
        route("DELETE", "/v1/gateway/keys/{name}", group.revoke),
    ]


class _Keys:
    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def all(self, _: Request) -> Response:
        found = self._services.ledger.read(keys.all_keys)
        return JSONResponse({"keys": [{"id": k.id, "tenant": k.tenant} for k in found]})

    async def create(self, request: Request) -> Response:
        body = await object_of(request)
        name, tenant = str(body.get("id", "")), str(body.get("tenant", ""))
        for text in (name, tenant):
            try:
                ids.name(text)
            except ValueError as error:
                raise UsageError(f"a key needs a name and a tenant: {error}") from error
        by, at = who(request), self._services.now()
        fact = Fact(Stream.AUDIT, "key-create", at, {"by": by, "id": name, "tenant": tenant})
        done = self._services.ledger.record(lambda db: keys.create(db, name, tenant, at), fact)
        text = await asyncio.wrap_future(done)
        await self._services.changed()
        return JSONResponse({"id": name, "tenant": tenant, "key": text})

    async def revoke(self, request: Request) -> Response:
        name, by, at = request.path_params["name"], who(request), self._services.now()
        fact = Fact(Stream.AUDIT, "key-revoke", at, {"by": by, "id": name})
        await asyncio.wrap_future(
            self._services.ledger.record(lambda db: keys.revoke(db, name), fact)
        )
        await self._services.changed()
        return JSONResponse({"id": name, "result": "revoked"})
