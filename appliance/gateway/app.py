"""The gateway's ASGI application: who asks, and for what.

A request of somebody who may ask is noted when it is accepted and again when it is over, however it
ends. Which engine answers it is ``engines.py``.
"""

import hashlib
import hmac
import json
import logging
import secrets
import time
from dataclasses import replace
from enum import Enum
from typing import Any

from appliance.core.routes import ApiKey, Route, RouteSnapshot
from appliance.core.usage import Outcome, UsageRecord
from appliance.gateway.engines import Engines, Request, route_of
from appliance.gateway.errors import ApiError, unavailable
from appliance.gateway.exchange import CallerLeft, Exchange, Receive, Scope, Send
from appliance.gateway.relay import Served
from appliance.gateway.routes import RouteSource
from appliance.gateway.spool import UsageSpool
from appliance.kit.clock import Clock, rfc3339

log = logging.getLogger(__name__)

CAPABILITY = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
_NO_KEYS = (
    "this gateway has no API key yet, so nobody gets in; on its node: "
    "appliance gateway key create NAME"
)
_LONGEST_MODEL = 256
"""The name goes into the usage record, which must stay small and be text that can be written."""


class Reach(Enum):
    """Who can reach the gateway, which says what happens while there is no API key."""

    THIS_MACHINE = "this machine"
    """Anybody on it may ask until a first key is made."""
    OTHERS = "others"
    """Nobody may; the gateway does not even start before there is a key."""
    CLUSTER = "cluster"
    """Nobody may; it starts, since a pod cannot wait for a person, and says what is missing."""


class Gateway:
    """The ASGI application."""

    def __init__(
        self, routes: RouteSource, spool: UsageSpool, engines: Engines, clock: Clock,
        *, reach: Reach, most_body_bytes: int,
    ) -> None:  # fmt: skip
        """``engines`` answers what ``routes`` allows; ``spool`` takes the usage facts."""
        self._routes = routes
        self._spool = spool
        self._engines = engines
        self._clock = clock
        self._reach = reach
        self._most_body_bytes = most_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._dispatch(exchange)
        except ApiError as error:
            await exchange.fail(error)

    async def _dispatch(self, exchange: Exchange) -> None:
        path, method = exchange.path, exchange.method
        if path in ("/healthz", "/readyz") and method == "GET":
            await self._health(exchange)
            return
        snapshot = self._routes.current()
        key = self._authenticate(exchange, snapshot)
        if path == "/v1/models" and method == "GET":
            await exchange.answer(200, _models(snapshot))
        elif path.startswith("/v1/models/") and method == "GET":
            name = route_of(snapshot, path.removeprefix("/v1/models/")).model
            await exchange.answer(200, json.dumps(_model(name)).encode())
        elif path in CAPABILITY and method == "POST":
            await self._serve(exchange, None if key is None else key.id)
        elif path in CAPABILITY or path == "/v1/models":
            raise ApiError(405, "method_not_allowed", f"{path} does not take {method}")
        else:
            raise ApiError(404, "unknown_url", f"there is no {method} {path} here")

    async def _health(self, exchange: Exchange) -> None:
        """Answer probes, without a key: ``/healthz`` that we live, ``/readyz`` that we may serve.

        Before the controller's word was ever heard no model and no key is known: what comes in
        then had better go to another gateway.
        """
        if exchange.path == "/readyz" and not self._routes.was_read:
            await exchange.answer(503, b'{"status":"no routes yet"}')
        else:
            await exchange.answer(200, b'{"status":"ok"}')

    def _authenticate(self, exchange: Exchange, snapshot: RouteSnapshot) -> ApiKey | None:
        if not snapshot.keys:
            if self._reach is Reach.THIS_MACHINE and not snapshot.needs_key:
                return None
            if self._reach is Reach.CLUSTER:
                raise unavailable("no_keys", _NO_KEYS, 30)
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
        body = await exchange.body(self._most_body_bytes)
        model, stream = _asked(body)
        served.note(model=model, stream=stream)
        _check_capability(route_of(self._routes.current(), model), exchange.path)
        with exchange.watch_caller() as left:
            request = Request(model, body, stream, time.monotonic(), exchange, served, left)
            await self._engines.answer(request)


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
