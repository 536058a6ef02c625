"""The local API as one application."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.cache import catalog
from appliance.kit.answers import application
from appliance.node.api import (
    carry,
    deployments,
    enrolment,
    gateway_keys,
    gpus,
    imports,
    models,
    receipts,
    software,
    store,
)
from appliance.node.api.answers import object_of, route
from appliance.node.api.services import LocalServices


def local_api(services: LocalServices) -> Starlette:
    """Return the ASGI application over the services of one node."""
    groups = (
        _node, deployments.routes, imports.routes, models.routes, receipts.routes,
        gateway_keys.routes, store.routes, software.routes, gpus.routes, carry.routes,
        enrolment.routes,
    )  # fmt: skip
    return application([found for group in groups for found in group(services)])


def _node(services: LocalServices) -> list[Route]:
    async def status(_: Request) -> Response:
        return JSONResponse(services.status())

    async def catalogue(_: Request) -> Response:
        found = services.ledger.read(catalog.variants)
        return JSONResponse({"models": [v.to_wire() for v in found]})

    async def stop(request: Request) -> Response:
        engines = (await object_of(request)).get("engines") is True
        services.stop(engines_too=engines)
        return JSONResponse({"result": "stopping"})

    return [
        route("GET", "/v1/status", status),
        route("GET", "/v1/models", catalogue),
        route("POST", "/v1/stop", stop),
    ]
