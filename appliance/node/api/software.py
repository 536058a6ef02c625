"""The controller's own versions: staged, and switched to by the supervisor."""

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.bundle.media.queue import Step
from appliance.errors import LockedError, UsageError
from appliance.node.api.answers import object_of, route, told, who
from appliance.node.api.services import LocalServices
from appliance.software.switch import INSTALLED


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    software = services.software

    async def status(_: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(software.status))

    async def stage(request: Request) -> Response:
        services.reserve.require()
        return _stage(services, _text(await object_of(request), "version"))

    async def switch(request: Request) -> Response:
        _require_quiet(services)
        body = await object_of(request)
        version, restarts = _text(body, "version"), body.get("restarts") is True
        wanted = None if version == INSTALLED else version
        found = await asyncio.to_thread(software.ask, wanted, who(request), restarts=restarts)
        return JSONResponse({"number": found.number, "wanted": version})

    async def back(request: Request) -> Response:
        _require_quiet(services)
        restarts = (await object_of(request)).get("restarts") is True
        found = await asyncio.to_thread(software.back, who(request), restarts=restarts)
        return JSONResponse({"number": found.number, "wanted": software.status()["next"]})

    return [
        route("GET", "/v1/software", status),
        route("POST", "/v1/software/stage", stage),
        route("POST", "/v1/software/switch", switch),
        route("POST", "/v1/software/back", back),
    ]


def _stage(services: LocalServices, which: str) -> Response:
    newest = Step("waiting")

    def tell(doing: str) -> None:
        nonlocal newest
        newest = Step(doing)

    async def work() -> dict[str, Any]:
        return {"staged": asdict(await asyncio.to_thread(services.software.stage, which, tell))}

    return told(services, work(), lambda: asdict(newest))


def _require_quiet(services: LocalServices) -> None:
    """An import would be cut off by the switch; it could be resumed, but nobody asked for that."""
    if services.importer.queue.is_busy():
        raise LockedError("a bundle is being imported", hint="wait for it: appliance bundle queue")


def _text(body: dict[str, Any], name: str) -> str:
    found = body.get(name)
    if not isinstance(found, str) or not found:
        raise UsageError(f"{name} is missing")
    return found
