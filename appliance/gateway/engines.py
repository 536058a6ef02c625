"""Which engine answers a request, and what happens until one does.

An engine is asked again, another one if there is, only while nothing of its answer has been passed
on. A request for a model that nobody serves yet is held; if it is streamed, comments keep its
connection alive, which every reader of server-sent events passes over.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass

from appliance.core.routes import Endpoint, Route, RouteSnapshot
from appliance.gateway.balance import Balancer
from appliance.gateway.demand import DemandMarks
from appliance.gateway.errors import ApiError, unavailable
from appliance.gateway.exchange import CallerLeft, Exchange
from appliance.gateway.relay import Served, break_off, relay
from appliance.gateway.routes import RouteSource
from appliance.gateway.upstream import EngineGoneError
from appliance.settings import GatewaySettings

log = logging.getLogger(__name__)
_LOOK_S = 0.025
_BUSY_S = 1.0
_MOST_TRIES = 2


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, checked; who asks, and what is noted of it."""

    model: str
    body: bytes
    stream: bool
    came: float
    exchange: Exchange
    served: Served
    left: asyncio.Event


class Engines:
    """The engines of all models."""

    def __init__(
        self, routes: RouteSource, balancer: Balancer, demand: DemandMarks,
        settings: GatewaySettings,
    ) -> None:  # fmt: skip
        """``demand`` is told of models that have to be woken, or must not fall asleep."""
        self._routes = routes
        self._balancer = balancer
        self._demand = demand
        self._settings = settings
        self._running: Counter[str] = Counter()

    async def answer(self, request: Request) -> None:
        """Ask one engine after the other until one answers, or something of an answer is out.

        Raises:
            ApiError: none answers.
            CallerLeft: the caller hung up.
        """
        tries = 0
        while True:
            endpoint = await self._endpoint(request)
            try:
                await self._ask(endpoint, request)
            except EngineGoneError as error:
                self._balancer.failed(endpoint)
                if request.exchange.passed:
                    await break_off(request.exchange, request.served, error)
                    return
                tries += error.asked
                if tries == _MOST_TRIES or self._is_over(request):
                    raise unavailable("engine_failed", str(error), 1) from error
                log.info("asking again, nothing was passed on yet: %s", error)
                await asyncio.sleep(_LOOK_S)
            else:
                return

    async def note_use(self) -> None:
        """Keep saying which models are in use by requests that take long; for ever."""
        while True:
            await asyncio.sleep(_BUSY_S)
            snapshot = self._routes.current()
            for model in list(self._running):
                route = snapshot.route(model)
                if route is not None and route.wakes:
                    self._demand.mark(model, waiting=False)

    def _is_over(self, request: Request) -> bool:
        return time.monotonic() - request.came >= self._settings.hold_s

    async def _ask(self, endpoint: Endpoint, request: Request) -> None:
        request.served.note(replica=endpoint.replica)
        self._running[request.model] += 1
        try:
            with self._balancer.asking(endpoint):
                await relay(
                    request.exchange, endpoint.address, request.body, request.served, request.left
                )
        finally:
            self._running[request.model] -= 1
            if not self._running[request.model]:
                del self._running[request.model]

    async def _endpoint(self, request: Request) -> Endpoint:
        """Return the engine to ask, waiting for one that starts."""
        signs = Signs(request, self._settings.keep_alive_s)
        while True:
            route = route_of(self._routes.current(), request.model)
            if route.endpoints:
                if route.wakes:
                    self._demand.mark(route.model, waiting=False)
                request.served.note(wait_ms=request.served.elapsed_ms())
                return self._balancer.choose(route.endpoints)
            self._refuse_or_wake(route, request)
            if request.left.is_set():
                raise CallerLeft
            await signs.give()
            await asyncio.sleep(_LOOK_S)

    def _refuse_or_wake(self, route: Route, request: Request) -> None:
        if route.cannot:
            message = f"{route.model} cannot start: {route.cannot}"
            raise unavailable("model_cannot_start", message, route.retry_after_s)
        if self._is_over(request):
            message = f"{route.model} was not ready within {self._settings.hold_s:g} s"
            raise unavailable("model_not_ready", message, route.retry_after_s)
        if route.wakes:
            self._demand.mark(route.model, waiting=True)


class Signs:
    """Signs of life for a caller who waits for a stream."""

    def __init__(self, request: Request, every_s: float) -> None:
        self._request = request
        self._every_s = every_s
        self._last = time.monotonic()

    async def give(self) -> None:
        """Send a comment if it is time for one. The first also sends a head that says 200."""
        now = time.monotonic()
        if self._request.stream and now - self._last >= self._every_s:
            self._last = now
            await self._request.exchange.comment(f"{self._request.model} is starting")


def route_of(snapshot: RouteSnapshot, model: str) -> Route:
    """Return the route of a model.

    Raises:
        ApiError: it has none.
    """
    route = snapshot.route(model)
    if route is None:
        known = ", ".join(r.model for r in snapshot.routes) or "none"
        message = f"the model {model!r} is not served here; served are: {known}"
        raise ApiError(404, "model_not_found", message, param="model")
    return route
