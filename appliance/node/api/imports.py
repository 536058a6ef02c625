"""Importing a bundle, with progress while it goes on, and what waits."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.bundle.queue import Step
from appliance.errors import UsageError
from appliance.node.api.answers import object_of, route, told, who
from appliance.node.api.services import LocalServices


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""

    async def import_(request: Request) -> Response:
        body = await object_of(request)
        path, dry = body.get("path"), body.get("dryRun") is True
        if not isinstance(path, str) or not path.startswith("/"):
            raise UsageError("path is not the absolute path of a bundle's folder")
        if not dry:
            services.reserve.require()
        return _import(services, Path(path), who(request), dry=dry)

    async def queue(_: Request) -> Response:
        return JSONResponse({"imports": [asdict(e) for e in services.importer.queue.entries()]})

    return [route("POST", "/v1/import", import_), route("GET", "/v1/import", queue)]


def _import(services: LocalServices, path: Path, by: str, *, dry: bool) -> Response:
    newest = Step("waiting")

    def tell(step: Step) -> None:
        nonlocal newest
        newest = step

    async def work() -> dict[str, Any]:
        found = await asyncio.to_thread(services.importer.run, path, by, tell, dry=dry)
        if not dry:
            await services.changed()
        return {"imported": asdict(found)}

    return told(services, work(), lambda: asdict(newest))
