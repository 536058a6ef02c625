"""Receipts and the time: what a stick carries home, and the answer that it brings back."""

import asyncio
from dataclasses import asdict
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.errors import UsageError
from appliance.node.api.answers import object_of, route
from appliance.node.api.services import LocalServices
from appliance.node.freshness import freshness

_MOST_DIGITS = 15


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Receipts(services)
    return [
        route("GET", "/v1/receipts", group.all),
        route("GET", "/v1/receipts/{seq}", group.one),
        route("POST", "/v1/receipts/export", group.export),
        route("GET", "/v1/time", group.time),
        route("POST", "/v1/time", group.take),
    ]


class _Receipts:
    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def all(self, _: Request) -> Response:
        return JSONResponse({"receipts": self._services.receipts.all()})

    async def one(self, request: Request) -> Response:
        seq = request.path_params["seq"]
        if not seq.isdecimal() or len(seq) > _MOST_DIGITS:
            raise UsageError(f"{seq[:20]!r} is not the number of a receipt")
        return JSONResponse(self._services.receipts.one(int(seq)))

    async def export(self, request: Request) -> Response:
        folder = await folder_of(request)
        found = await asyncio.to_thread(self._services.receipts.export, folder)
        return JSONResponse(asdict(found))

    async def time(self, _: Request) -> Response:
        services = self._services
        return JSONResponse(services.ledger.read(lambda db: freshness(db, services.clock)))

    async def take(self, request: Request) -> Response:
        services, folder = self._services, await folder_of(request)
        taken = await asyncio.to_thread(services.answers.take_folder, folder)
        await services.changed()
        now = services.ledger.read(lambda db: freshness(db, services.clock))
        return JSONResponse({"taken": asdict(taken), "time": now})


async def folder_of(request: Request) -> Path:
    """Return the folder that a request names.

    Raises:
        UsageError: it names none, or not from the root on.
    """
    path = (await object_of(request)).get("path")
    if not isinstance(path, str) or not path.startswith("/"):
        raise UsageError("path is not the absolute path of a folder")
    return Path(path)
