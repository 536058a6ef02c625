"""Importing a bundle, with progress while it goes on, and what waits."""

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.bundle.media.queue import Step
from appliance.bundle.media.roads import is_remote
from appliance.errors import UsageError
from appliance.node.api.answers import object_of, route, told, who
from appliance.node.api.services import LocalServices
from appliance.node.fetching import Wanted


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""

    async def import_(request: Request) -> Response:
        body = await object_of(request)
        path, dry = body.get("path"), body.get("dryRun") is True
        if not isinstance(path, str) or not (path.startswith("/") or is_remote(path)):
            raise UsageError(
                "path is neither the absolute path of a bundle's folder nor its address"
            )
        if not dry:
            services.reserve.require()
        return _import(services, Wanted(path, who(request), dry, body.get("now") is True))

    async def queue(_: Request) -> Response:
        return JSONResponse({"imports": [asdict(e) for e in services.importer.queue.entries()]})

    return [route("POST", "/v1/import", import_), route("GET", "/v1/import", queue)]


def _import(services: LocalServices, wanted: Wanted) -> Response:
    newest = Step("waiting")

    def tell(step: Step) -> None:
        nonlocal newest
        newest = step

    async def work() -> dict[str, Any]:
        found = await services.fetching.bring(wanted, tell)
        if not wanted.dry:
            await services.changed()
        return {"imported": asdict(found)}

    return told(services, work(), lambda: asdict(newest))
