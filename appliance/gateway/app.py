"""The gateway's ASGI application: who asks, for what, and which engine answers.

A request of somebody who may ask is noted when it is accepted and again when it is over, however it
ends. An engine is asked again only while nothing of its answer has been passed on.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from appliance.core.routes import ApiKey, Endpoint, Route, RouteSnapshot
from appliance.core.usage import Outcome, UsageRecord
from appliance.gateway.errors import ApiError, unavailable
from appliance.gateway.exchange import CallerLeft, Exchange, Receive, Scope, Send
from appliance.gateway.relay import Served, break_off, relay
from appliance.gateway.routes import RouteFile
from appliance.gateway.spool import UsageSpool
from appliance.gateway.upstream import EngineGoneError
from appliance.kit.clock import Clock, rfc3339
from appliance.settings import GatewaySettings

log = logging.getLogger(__name__)

CAPABILITY = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
_LOOK_S = 0.025
_MOST_TRIES = 2
_LONGEST_MODEL = 256
"""The name goes into the usage record, which must stay small and be text that can be written."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What was asked for, checked."""

    model: str
    body: bytes
    deadline: float


class Gateway:
    """The ASGI application."""

    def __init__(
        self, routes: RouteFile, spool: UsageSpool, clock: Clock, settings: GatewaySettings,
        *, loopback: bool,
    ) -> None:  # fmt: skip
        """``loopback``: only this machine reaches us; if not, nobody gets in without a key."""
        self._routes = routes
        self._spool = spool
        self._clock = clock
        self._settings = settings
        self._loopback = loopback
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._dispatch(exchange)
        except ApiError as error:
            await exchange.answer(error.status, error.json(), error.headers)

    async def _dispatch(self, exchange: Exchange) -> None:
        path, method = exchange.path, exchange.method
        if path == "/healthz" and method == "GET":
            await exchange.answer(200, b'{"status":"ok"}')
            return
        snapshot = self._routes.current()
        key = self._authenticate(exchange, snapshot)
        if path == "/v1/models" and method == "GET":
            await exchange.answer(200, _models(snapshot))
        elif path.startswith("/v1/models/") and method == "GET":
            name = self._route(path.removeprefix("/v1/models/")).model
            await exchange.answer(200, json.dumps(_model(name)).encode())
        elif path in CAPABILITY and method == "POST":
            await self._serve(exchange, None if key is None else key.id)
        elif path in CAPABILITY or path == "/v1/models":
            raise ApiError(405, "method_not_allowed", f"{path} does not take {method}")
        else:
            raise ApiError(404, "unknown_url", f"there is no {method} {path} here")

    def _authenticate(self, exchange: Exchange, snapshot: RouteSnapshot) -> ApiKey | None:
        if not snapshot.keys:
            if self._loopback and not snapshot.needs_key:
                return None
            raise ApiError(403, "no_keys", "this gateway has no API key, so nobody gets in")
        scheme, _, text = exchange.header(b"authorization").partition(" ")
        given = hashlib.sha256(text.strip().encode()).hexdigest()
        for key in snapshot.keys:
            if scheme.lower() == "bearer" and hmac.compare_digest(key.sha256, given):
                return key
        raise ApiError(401, "invalid_api_key", "no valid API key in the Authorization header")

    async def _serve(self, exchange: Exchange, key: str | None) -> None:
        """Note the request, answer it, and note how that ended."""
        record = UsageRecord(
            id=secrets.token_hex(16),
            at=rfc3339(self._clock.utc()),
            request_id=exchange.request_id,
            route=exchange.path,
            model=None,
            key=key,
            stream=False,
        )
        usage = self._spool.begin(record)
        served = Served(record)
        try:
            await self._answer(exchange, served)
        except ApiError as error:
            served.note(status=error.status, outcome=Outcome.FAILED)
            raise
        except CallerLeft:
            served.note(outcome=Outcome.CANCELLED)
        finally:
            usage.end(replace(served.record, duration_ms=served.elapsed_ms()))

    async def _answer(self, exchange: Exchange, served: Served) -> None:
        body = await exchange.body(self._settings.most_body_bytes)
        model, stream = _asked(body)
        served.note(model=model, stream=stream)
        _check_capability(self._route(model), exchange.path)
        request = _Request(model, body, time.monotonic() + self._settings.hold_s)
        with exchange.watch_caller() as left:
            await self._ask_engines(exchange, request, served, left)

    async def _ask_engines(
        self, exchange: Exchange, request: _Request, served: Served, left: asyncio.Event
    ) -> None:
        """Ask one engine after the other until one answers, or something of an answer is out."""
        tries = 0
        while True:
            endpoint = await self._endpoint(request, served, left)
            try:
                await self._ask(exchange, endpoint, request, served, left)
            except EngineGoneError as error:
                if exchange.began:
                    await break_off(exchange, served, error)
                    return
                tries += error.asked
                if tries == _MOST_TRIES or time.monotonic() >= request.deadline:
                    raise unavailable("engine_failed", str(error), 1) from error
                log.info("asking again, nothing was passed on yet: %s", error)
                await asyncio.sleep(_LOOK_S)
            else:
                return

    async def _ask(
        self,
        exchange: Exchange,
        endpoint: Endpoint,
        request: _Request,
        served: Served,
        left: asyncio.Event,
    ) -> None:
        served.note(replica=endpoint.replica)
        self._running[endpoint.replica] += 1
        try:
            await relay(exchange, endpoint.address, request.body, served, left)
        finally:
            self._running[endpoint.replica] -= 1

    async def _endpoint(self, request: _Request, served: Served, left: asyncio.Event) -> Endpoint:
        """Return the least busy engine of a model, waiting for one that starts."""
        while True:
            route = self._route(request.model)
            if route.endpoints:
                served.note(wait_ms=served.elapsed_ms())
                return min(route.endpoints, key=lambda e: self._running[e.replica])
            if route.cannot:
                message = f"{route.model} cannot start: {route.cannot}"
                raise unavailable("model_cannot_start", message, route.retry_after_s)
            if time.monotonic() >= request.deadline:
                message = f"{route.model} was not ready within {self._settings.hold_s:g} s"
                raise unavailable("model_not_ready", message, route.retry_after_s)
            if left.is_set():
                raise CallerLeft
            await asyncio.sleep(_LOOK_S)

    def _route(self, model: str) -> Route:
        snapshot = self._routes.current()
        route = snapshot.route(model)
        if route is None:
            known = ", ".join(r.model for r in snapshot.routes) or "none"
            message = f"the model {model!r} is not served here; served are: {known}"
            raise ApiError(404, "model_not_found", message, param="model")
        return route


def _asked(body: bytes) -> tuple[str, bool]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", "the request's body is not JSON") from error
    if not isinstance(found, dict):
        raise ApiError(400, "invalid_json", "the request's body is not a JSON object")
    model = found.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "missing_model", "the request names no model", param="model")
    if len(model) > _LONGEST_MODEL or not model.isprintable():
        raise ApiError(404, "model_not_found", "no model has a name like this", param="model")
    return model, found.get("stream") is True


def _check_capability(route: Route, path: str) -> None:
    wanted = CAPABILITY[path]
    if route.capabilities and wanted not in route.capabilities:
        able = ", ".join(route.capabilities)
        message = f"the model {route.model!r} does not do {wanted}; it does: {able}"
        raise ApiError(400, "model_not_capable", message, param="model")


def _models(snapshot: RouteSnapshot) -> bytes:
    models = [_model(route.model) for route in snapshot.routes]
    return json.dumps({"object": "list", "data": models}).encode()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "edge-ai-appliance"}
