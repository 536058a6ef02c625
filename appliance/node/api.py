"""The local API on the controller's Unix socket: what the commands of this machine talk to.

Who may use it is decided by the socket's file mode; who did is known by the peer's credentials and
goes into the audit stream. Answers are JSON objects, one a line; an error is ``{"error": {...}}``.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from appliance.bundle.accept import Imported, Importer, Step
from appliance.cache import catalog
from appliance.core import ids, reading, wire
from appliance.core.documents import BundleDefinition, BundleLock
from appliance.errors import ApplianceError, UsageError
from appliance.kit.answers import application, body_of, refusal
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.reserve import Reserve
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired, keys

_PROGRESS_S = 0.2

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class LocalServices:
    """What the API needs of the node around it."""

    ledger: Ledger
    importer: Importer
    reserve: Reserve
    clock: Clock
    status: Callable[[], dict[str, Any]]
    log_lines: Callable[[str, int], dict[str, list[str]]]
    changed: Callable[[], Awaitable[None]]
    stop: Callable[..., None]


class LocalApi:
    """Handlers over the services of one node."""

    def __init__(self, services: LocalServices) -> None:
        self._services = services
        self._imports: set[asyncio.Task[Imported]] = set()

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [
            ("GET", "/v1/status", self._status),
            ("GET", "/v1/models", self._models),
            ("GET", "/v1/deployments", self._deployments),
            ("POST", "/v1/apply", self._apply),
            ("DELETE", "/v1/deployments/{name}", self._delete),
            ("POST", "/v1/deployments/{name}/release", self._release),
            ("GET", "/v1/deployments/{name}/logs", self._logs),
            ("POST", "/v1/import", self._import),
            ("GET", "/v1/gateway/keys", self._list_keys),
            ("POST", "/v1/gateway/keys", self._create_key),
            ("DELETE", "/v1/gateway/keys/{name}", self._revoke_key),
            ("POST", "/v1/stop", self._stop),
        ]
        return application(
            [
                Route(path, _translated(handler), methods=[method])
                for method, path, handler in routes
            ]
        )

    async def _status(self, _: Request) -> Response:
        return JSONResponse(self._services.status())

    async def _models(self, _: Request) -> Response:
        found = self._services.ledger.read(catalog.variants)
        return JSONResponse({"models": [v.to_wire() for v in found]})

    async def _deployments(self, _: Request) -> Response:
        services = self._services
        return JSONResponse({"deployments": services.status()["deployments"]})

    async def _apply(self, request: Request) -> Response:
        self._services.reserve.require()
        body = await _object(request)
        found = body.get("documents")
        if not isinstance(found, list) or not found:
            raise UsageError("nothing to apply: the request holds no documents")
        documents = [reading.from_wire(d, "the request") for d in found]
        for document in documents:
            if isinstance(document, BundleDefinition | BundleLock):
                raise UsageError(
                    f"a {document.kind} is not applied to a node",
                    hint="appliance bundle build makes a bundle of it",
                )
        by, at = _who(request), self._now()
        changes = {}
        for document in documents:
            body = {"by": by, "kind": document.kind, "name": document.name,
                    "document": document.to_wire()}  # fmt: skip
            done = self._services.ledger.record(
                partial(desired.apply_locally, document=document, by=by, at=at),
                Fact(Stream.AUDIT, "apply", at, body),
            )
            changes[f"{document.kind}/{document.name}"] = await asyncio.wrap_future(done)
        await self._services.changed()
        return JSONResponse({"applied": changes})

    async def _delete(self, request: Request) -> Response:
        return await self._local_word(request, "delete", desired.delete_locally)

    async def _release(self, request: Request) -> Response:
        return await self._local_word(
            request, "release", lambda db, name, _by, _at: desired.release(db, name)
        )

    async def _local_word(
        self, request: Request, verb: str, effect: Callable[[Any, str, str, str], str]
    ) -> Response:
        name, by, at = request.path_params["name"], _who(request), self._now()
        fact = Fact(Stream.AUDIT, verb, at, {"by": by, "name": name})
        done = self._services.ledger.record(lambda db: effect(db, name, by, at), fact)
        result = await asyncio.wrap_future(done)
        await self._services.changed()
        return JSONResponse({"name": name, "result": result})

    async def _logs(self, request: Request) -> Response:
        lines = request.query_params.get("lines", "100")
        if not lines.isdecimal() or not 1 <= int(lines) <= 10_000:
            raise UsageError(f"lines is {lines!r}, not a number from 1 to 10000")
        return JSONResponse(self._services.log_lines(request.path_params["name"], int(lines)))

    async def _import(self, request: Request) -> Response:
        self._services.reserve.require()
        path = (await _object(request)).get("path")
        if not isinstance(path, str) or not path.startswith("/"):
            raise UsageError("path is not the absolute path of a bundle's folder")
        by = _who(request)
        return StreamingResponse(self._progress(Path(path), by), media_type="application/x-ndjson")

    async def _progress(self, path: Path, by: str) -> AsyncIterator[bytes]:
        newest = Step("waiting")

        def told(step: Step) -> None:
            nonlocal newest
            newest = step

        async def run() -> Imported:
            found = await asyncio.to_thread(self._services.importer.run, path, by, told)
            await self._services.changed()
            return found

        work = asyncio.create_task(run())
        self._imports.add(work)  # goes on when whoever asked has left
        work.add_done_callback(self._imports.discard)
        while not work.done():
            await asyncio.wait({work}, timeout=_PROGRESS_S)
            yield _line({"progress": asdict(newest)})
        try:
            found = work.result()
        except ApplianceError as error:
            yield _line({"error": error.to_wire()})
            return
        yield _line({"imported": asdict(found)})

    async def _list_keys(self, _: Request) -> Response:
        found = self._services.ledger.read(keys.all_keys)
        return JSONResponse({"keys": [{"id": k.id, "tenant": k.tenant} for k in found]})

    async def _create_key(self, request: Request) -> Response:
        body = await _object(request)
        name, tenant = str(body.get("id", "")), str(body.get("tenant", ""))
        for text in (name, tenant):
            try:
                ids.name(text)
            except ValueError as error:
                raise UsageError(f"a key needs a name and a tenant: {error}") from error
        by, at = _who(request), self._now()
        fact = Fact(Stream.AUDIT, "key-create", at, {"by": by, "id": name, "tenant": tenant})
        done = self._services.ledger.record(lambda db: keys.create(db, name, tenant, at), fact)
        text = await asyncio.wrap_future(done)
        await self._services.changed()
        return JSONResponse({"id": name, "tenant": tenant, "key": text})

    async def _revoke_key(self, request: Request) -> Response:
        name, by, at = request.path_params["name"], _who(request), self._now()
        fact = Fact(Stream.AUDIT, "key-revoke", at, {"by": by, "id": name})
        await asyncio.wrap_future(
            self._services.ledger.record(lambda db: keys.revoke(db, name), fact)
        )
        await self._services.changed()
        return JSONResponse({"id": name, "result": "revoked"})

    async def _stop(self, request: Request) -> Response:
        engines = (await _object(request)).get("engines") is True
        self._services.stop(engines_too=engines)
        return JSONResponse({"result": "stopping"})

    def _now(self) -> str:
        return rfc3339(self._services.clock.utc())


def _translated(handler: Handler) -> Handler:
    async def call(request: Request) -> Response:
        try:
            return await handler(request)
        except ApplianceError as error:
            return refusal(error)

    return call


async def _object(request: Request) -> dict[str, Any]:
    return wire.loads(await body_of(request), what="the request")


def _who(request: Request) -> str:
    peer = request.scope.get("state", {}).get("peer")
    return "unknown" if peer is None else f"uid {peer.uid}"


def _line(data: dict[str, Any]) -> bytes:
    return json.dumps(data).encode() + b"\n"
