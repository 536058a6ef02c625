"""The store: what is here and who holds it, what it takes, verifying, making room, pins."""

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.cache.collect import Collected
from appliance.errors import UsageError
from appliance.node.api.answers import object_of, route, short_text, told, who
from appliance.node.api.services import LocalServices


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Store(services)
    return [
        route("GET", "/v1/store", group.listing),
        route("GET", "/v1/store/usage", group.usage),
        route("POST", "/v1/store/verify", group.verify),
        route("GET", "/v1/store/gc", group.plan),
        route("POST", "/v1/store/gc", group.collect),
        route("POST", "/v1/store/pin", group.pin),
        route("POST", "/v1/store/unpin", group.unpin),
    ]


class _Store:
    def __init__(self, services: LocalServices) -> None:
        self._services = services
        self._care = services.care

    async def listing(self, _: Request) -> Response:
        found = await asyncio.to_thread(self._care.listing)
        wanted = [w.to_wire() for w in self._care.health.wanted()]
        return JSONResponse({"store": found, "wanted": wanted})

    async def usage(self, _: Request) -> Response:
        return JSONResponse(asdict(await asyncio.to_thread(self._care.usage)))

    async def verify(self, request: Request) -> Response:
        name = (await object_of(request)).get("name")
        if name is not None and not isinstance(name, str):
            raise UsageError("name is not text")
        newest: dict[str, Any] = {"doing": "waiting", "done": 0, "total": 0}

        def tell(doing: str, done: int, total: int) -> None:
            newest.update(doing=doing, done=done, total=total)

        async def work() -> dict[str, Any]:
            found = await asyncio.to_thread(self._care.verify, name, tell)
            await self._services.changed()
            return {"verified": found}

        return told(self._services, work(), lambda: dict(newest))

    async def plan(self, _: Request) -> Response:
        return JSONResponse(_collected(await asyncio.to_thread(self._care.collector.plan)))

    async def collect(self, request: Request) -> Response:
        found = await asyncio.to_thread(self._care.collector.collect, who(request))
        await self._services.changed()
        return JSONResponse(_collected(found))

    async def pin(self, request: Request) -> Response:
        body = await object_of(request)
        name, why = short_text(body, "name"), short_text(body, "why")
        found = await asyncio.to_thread(self._care.pin, name, why, who(request))
        return JSONResponse({"pinned": found, "why": why})

    async def unpin(self, request: Request) -> Response:
        name = short_text(await object_of(request), "name")
        return JSONResponse(
            {"unpinned": await asyncio.to_thread(self._care.unpin, name, who(request))}
        )


def _collected(found: Collected) -> dict[str, Any]:
    return {
        "leftovers": [
            {"path": str(lo.path), "bytes": lo.size, "why": lo.why} for lo in found.leftovers
        ],
        "evicted": [asdict(eviction) for eviction in found.retention.evictions],
        "kept": [asdict(kept) for kept in found.retention.kept],
        "freed_bytes": found.freed_bytes,
        "short_bytes": found.retention.short_bytes,
    }
