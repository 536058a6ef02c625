"""Deployments: what is served, and the local word about it."""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance.core import reading
from appliance.core.documents import Document
from appliance.errors import UsageError
from appliance.kit.commit import Effect
from appliance.ledger import meta, streams
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired, overrides
from appliance.node.api.answers import object_of, route, short_text, who
from appliance.node.api.services import LocalServices
from appliance.node.overrides import Why
from appliance.trust import floor

_NOT_APPLIED = {
    "BundleDefinition": "appliance bundle build makes a bundle of it",
    "BundleLock": "appliance bundle build makes a bundle of it",
    "Model": "the controller writes it; appliance model add and bundles bring models",
}


def routes(services: LocalServices) -> list[Route]:
    """Return this group's routes."""
    group = _Deployments(services)
    return [
        route("GET", "/v1/deployments", group.deployments),
        route("POST", "/v1/apply", group.apply),
        route("DELETE", "/v1/deployments/{name}", group.delete),
        route("POST", "/v1/deployments/{name}/release", group.release),
        route("POST", "/v1/deployments/{name}/hold", group.hold),
        route("POST", "/v1/deployments/{name}/pin", group.pin),
        route("GET", "/v1/deployments/{name}/logs", group.logs),
    ]


class _Deployments:
    def __init__(self, services: LocalServices) -> None:
        self._services = services

    async def deployments(self, _: Request) -> Response:
        services = self._services
        return JSONResponse({"deployments": services.status()["deployments"]})

    async def apply(self, request: Request) -> Response:
        self._services.reserve.require()
        body = await object_of(request)
        found = body.get("documents")
        if not isinstance(found, list) or not found:
            raise UsageError("nothing to apply: the request holds no documents")
        documents = [reading.from_wire(d, "the request") for d in found]
        for document in documents:
            if hint := _NOT_APPLIED.get(document.kind):
                raise UsageError(f"a {document.kind} is not applied to a node", hint=hint)
        by, at = who(request), self._services.now()
        why = self._why(request, body) if body.get("reason") or body.get("until") else None
        changes, waits = {}, {}
        for document in documents:
            body = {"by": by, "kind": document.kind, "name": document.name,
                    "document": document.to_wire(), **_reason(why)}  # fmt: skip
            done = self._services.ledger.record(
                _applied(document, why, by, at),
                Fact(Stream.AUDIT, "apply", at, body),
            )
            changes[f"{document.kind}/{document.name}"] = await asyncio.wrap_future(done)
            absent = partial(overrides.waiting, document=document)
            if why is not None and (told := self._services.ledger.read(absent)):
                waits[f"{document.kind}/{document.name}"] = told
        await self._services.changed()
        return JSONResponse({"applied": changes, **({"waits": waits} if waits else {})})

    async def delete(self, request: Request) -> Response:
        return await self._local_word(request, "delete", desired.delete_locally)

    async def release(self, request: Request) -> Response:
        return await self._local_word(
            request, "release", lambda db, name, _by, _at: desired.release(db, name)
        )

    async def hold(self, request: Request) -> Response:
        self._services.reserve.require()
        why = self._why(request, await object_of(request))
        return await self._local_word(
            request, "hold", lambda db, name, _by, _at: overrides.hold(db, name, why), why
        )

    async def pin(self, request: Request) -> Response:
        self._services.reserve.require()
        body = await object_of(request)
        why, model = self._why(request, body), body.get("model")
        if model is not None and not isinstance(model, str):
            raise UsageError("model is not the name of a model")
        anyway, said = body.get("anyway") is True, {"by": why.by, **_reason(why)}

        def effect(db: sqlite3.Connection, name: str, _by: str, at: str) -> str:
            pinned = overrides.pin(db, name, model, why, anyway=anyway)
            record = {"name": name, "model": pinned.model, **said}
            streams.append(db, Fact(Stream.AUDIT, "pin", at, record))
            return pinned.told

        return await self._local_word(request, None, effect)

    def _why(self, request: Request, body: dict[str, Any]) -> Why:
        """Return who asks for a local word, why, and until when.

        Raises:
            UsageError: there is no reason, or the end makes no sense.
        """
        clock = self._services.clock.utc()
        now = floor.now(self._services.ledger.read(meta.floor), clock)
        ends = body.get("until")
        if ends is not None and not isinstance(ends, str):
            raise UsageError("until is not text")
        until = overrides.until(ends, now)
        return Why(who(request), self._services.now(), short_text(body, "reason"), until)

    async def _local_word(
        self, request: Request, verb: str | None, effect: Callable[[Any, str, str, str], str],
        why: Why | None = None,
    ) -> Response:  # fmt: skip
        """Act on a deployment; without a ``verb`` the effect writes its own audit record."""
        name, by, at = request.path_params["name"], who(request), self._services.now()
        body = {"by": by, "name": name, **_reason(why)}
        facts = [] if verb is None else [Fact(Stream.AUDIT, verb, at, body)]
        done = self._services.ledger.record(lambda db: effect(db, name, by, at), *facts)
        result = await asyncio.wrap_future(done)
        await self._services.changed()
        return JSONResponse({"name": name, "result": result})

    async def logs(self, request: Request) -> Response:
        lines = request.query_params.get("lines", "100")
        if not lines.isdecimal() or not 1 <= int(lines) <= 10_000:
            raise UsageError(f"lines is {lines!r}, not a number from 1 to 10000")
        name, read = request.path_params["name"], self._services.log_lines
        return JSONResponse(await asyncio.to_thread(read, name, int(lines)))


def _applied(document: Document, why: Why | None, by: str, at: str) -> Effect[str]:
    if why is not None:
        return partial(overrides.override, document=document, why=why)
    return partial(desired.apply_locally, document=document, by=by, at=at)


def _reason(why: Why | None) -> dict[str, Any]:
    return {} if why is None else {"reason": why.reason, "until": why.until}
