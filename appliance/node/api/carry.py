"""The stick road, the audit log that is kept here, and backups."""

import asyncio
import json
import os
from dataclasses import asdict
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.core import wire
from appliance.errors import ForbiddenError, UsageError
from appliance.ledger import retained
from appliance.ledger.streams import Fact, Stream
from appliance.node import auditing, backup
from appliance.node.api.answers import object_of, route, who
from appliance.node.api.receipts import folder_of
from appliance.node.api.services import LocalServices

_MOST_RECORDS = 1000
_MOST_WITNESSES = 1000


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Carry(services)
    return [
        route("POST", "/v1/sync/export", group.export),
        route("POST", "/v1/sync/import", group.take),
        route("GET", "/v1/audit", group.newest),
        route("POST", "/v1/audit/verify", group.verify),
        route("POST", "/v1/backup", group.back_up),
    ]


class _Carry:
    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def export(self, request: Request) -> Response:
        found = await self._services.carrier.export(await folder_of(request))
        return JSONResponse(asdict(found))

    async def take(self, request: Request) -> Response:
        taken = await self._services.carrier.take(await folder_of(request))
        await self._services.changed()
        return JSONResponse({"taken": [t.to_wire() for t in taken]})

    async def newest(self, request: Request) -> Response:
        text = request.query_params.get("most", "20")
        if not text.isdecimal() or not 1 <= int(text[:9]) <= _MOST_RECORDS:
            raise UsageError(f"most is {text[:20]!r}, not a number from 1 to {_MOST_RECORDS}")
        found = self._services.ledger.read(partial(retained.newest, most=int(text)))
        shown = [{"seq": k.seq, **json.loads(k.record)} for k in found]
        earlier = self._services.ledger.read(retained.earlier)
        return JSONResponse({"epoch": self._services.ledger.epoch, "records": shown,
                             "earlier": earlier})  # fmt: skip

    async def verify(self, request: Request) -> Response:
        services, body = self._services, await object_of(request)
        me = services.carrier.identity
        witnesses = [
            *auditing.spoken(_listed(body, "heads")),
            *auditing.signed(
                [wire.dumps(r) for r in _listed(body, "receipts")], me, services.ledger.epoch
            ),
        ]
        found = await asyncio.to_thread(auditing.verify, services.ledger, witnesses)
        return JSONResponse(asdict(found))

    async def back_up(self, request: Request) -> Response:
        services, folder = self._services, await folder_of(request)
        by, at = who(request), services.now()
        if by not in (f"uid {uid}" for uid in (0, os.geteuid())):
            raise ForbiddenError(
                "a backup holds this node's private keys, which are not for everybody here",
                hint="ask as root, or as the user that the controller runs as",
            )
        fact = Fact(Stream.AUDIT, "backup", at, {"by": by})
        await asyncio.wrap_future(services.ledger.note(fact))  # who has it has this node's keys
        state, node = services.importer.parts.state, services.carrier.identity.node
        make = partial(backup.make, seal=services.carrier.seal)
        made = await asyncio.to_thread(make, state, node, services.ledger, folder, at)
        return JSONResponse(asdict(made))


def _listed(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = body.get(name, [])
    if not isinstance(found, list) or len(found) > _MOST_WITNESSES:
        raise UsageError(f"{name} is not a list of at most {_MOST_WITNESSES}")
    if not all(isinstance(entry, dict) for entry in found):
        raise UsageError(f"{name} holds something that is not an object")
    return found
