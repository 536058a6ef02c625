"""Importing a bundle, with progress while it goes on."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance.bundle.queue import Step
from appliance.errors import UsageError
from appliance.node.api.answers import object_of, route, told, who
from appliance.node.api.services import LocalServices


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""

    async def import_(request: Request) -> Response:
        services.reserve.require()
        path = (await object_of(request)).get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            raise UsageError("path is not the absolute path of a bundle's folder")
        return _import(services, Path(path), who(request))

    return [route("POST", "/v1/import", import_)]


def _import(services: LocalServices, path: Path, by: str) -> Response:
    newest = Step("waiting")

    def tell(step: Step) -> None:
        nonlocal newest
        newest = step

    async def work() -> dict[str, Any]:
        found = await asyncio.to_thread(services.importer.run, path, by, tell)
        await services.changed()
        return {"imported": asdict(found)}

    return told(services, work(), lambda: asdict(newest))
