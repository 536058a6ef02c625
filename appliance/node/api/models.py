"""Models that the site brings itself: add one, with progress while it goes on, and remove it."""

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.bundle.media.queue import Step
from appliance.bundle.take.bring import Wish
from appliance.errors import UsageError
from appliance.node import desired
from appliance.node.api.answers import object_of, route, told, who
from appliance.node.api.services import LocalServices

_WORDS = ("name", "version", "variant", "licence", "reference")


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Models(services)
    return [
        route("POST", "/v1/models/local", group.add),
        route("DELETE", "/v1/models/local/{name}", group.remove),
    ]


class _Models:
    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def add(self, request: Request) -> Response:
        self._services.reserve.require()
        body, by = await object_of(request), who(request)
        path = body.get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            raise UsageError("path is not the absolute path of a file or folder")
        wish, newest = _wish(body), Step("waiting")

        def tell(step: Step) -> None:
            nonlocal newest
            newest = step

        async def work() -> dict[str, Any]:
            add = self._services.models.add
            found = await asyncio.to_thread(add, Path(path), wish, by, tell)
            await self._services.changed()
            return {"added": found.to_wire()}

        return told(self._services, work(), lambda: asdict(newest))

    async def remove(self, request: Request) -> Response:
        name, query = request.path_params["name"], request.query_params
        in_force = self._services.ledger.read(desired.in_force).deployments
        users = [
            d.document.name for d in in_force if d.document.spec.model.partition("@")[0] == name
        ]
        if users:
            raise UsageError(
                f"{name} is asked for by {', '.join(users)}",
                hint=f"appliance delete {users[0]}, then try again",
            )
        remove, by = self._services.models.remove, who(request)
        gone = await asyncio.to_thread(remove, name, query.get("version"), query.get("variant"), by)
        await self._services.changed()
        return JSONResponse({"removed": [variant.to_wire() for variant in gone]})


def _wish(body: dict[str, Any]) -> Wish:
    words = {name: body[name] for name in _WORDS if body.get(name) is not None}
    if not all(isinstance(word, str) for word in words.values()) or "name" not in words:
        raise UsageError("a model needs a name; its name, version, variant and licence are texts")
    wish = Wish(**words)
    embeds = body.get("embeddings") is True
    return replace(wish, capabilities=("embeddings",)) if embeds else wish
