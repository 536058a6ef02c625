"""GPUs: which are here, which are fenced; fencing, releasing, resetting."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.node.api.answers import object_of, route, short_text, who
from appliance.node.api.services import LocalServices


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    gpus = services.gpus

    async def listing(_: Request) -> Response:
        await asyncio.to_thread(gpus.look_now)
        return JSONResponse(await asyncio.to_thread(gpus.to_wire))

    async def fence(request: Request) -> Response:
        body = await object_of(request)
        name, why = short_text(body, "gpu"), short_text(body, "why")
        uuid = await asyncio.to_thread(gpus.fence, name, why, who(request))
        await services.changed()
        return JSONResponse({"fenced": uuid, "why": why})

    async def release(request: Request) -> Response:
        name = short_text(await object_of(request), "gpu")
        uuid = await asyncio.to_thread(gpus.release, name, who(request))
        await services.changed()
        return JSONResponse({"released": uuid})

    async def reset(request: Request) -> Response:
        name = short_text(await object_of(request), "gpu")
        uuid = await asyncio.to_thread(gpus.reset, name, who(request))
        await services.changed()
        return JSONResponse({"reset": uuid})

    return [
        route("GET", "/v1/gpus", listing),
        route("POST", "/v1/gpus/fence", fence),
        route("POST", "/v1/gpus/release", release),
        route("POST", "/v1/gpus/reset", reset),
    ]
