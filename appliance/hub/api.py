"""The hub's REST API, and the one page over the same calls. Everything is served from here."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from appliance.core import reading, wire
from appliance.core.documents import ModelDeployment, Site
from appliance.core.ids import node_id
from appliance.errors import ApplianceError, SignatureError, UsageError
from appliance.hub import commands_api, enrolment_api, heads, receipts, resume, roster, store
from appliance.hub.commands import CommandDesk
from appliance.hub.enrolment import Enrolment
from appliance.hub.service import HubService
from appliance.hub.view import NodeView, held, suspected, view
from appliance.kit.answers import application, body_of, refusal
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.commit import GroupCommit
from appliance.sync.mqtt import Message
from appliance.trust.keys import public_key

_WEB = Path(__file__).parent / "web"
_MOST_RECORDS = 1000
_MOST_DIGITS = 15
_POLICY = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'"

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HubApi:
    """Handlers over one hub. Reading needs the token too when others than this machine reach us."""

    db: GroupCommit
    service: HubService
    clock: Clock
    token: str
    heartbeat_s: float
    loopback: bool
    enrolment: Enrolment | None = None
    commands: CommandDesk | None = None

    def app(self) -> Starlette:
        """Return the ASGI application."""
        node = "/api/v1/nodes/{node}"
        routes = [
            ("GET", "/", self._page, False),
            ("GET", "/api/v1/nodes", self._nodes, False),
            ("GET", node, self._node, False),
            ("PUT", node, self._admit, True),
            ("GET", f"{node}/records", self._records, False),
            ("GET", f"{node}/batches", self._batches, False),
            ("GET", "/api/v1/receipts", self._all_receipts, False),
            ("GET", f"{node}/receipts", self._receipts, False),
            ("POST", f"{node}/receipts", self._take_receipts, True),
            ("GET", f"{node}/messages", self._messages, True),
            ("POST", f"{node}/messages", self._replay, True),
            ("POST", f"{node}/documents", self._apply, True),
            ("DELETE", f"{node}/documents/{{kind}}/{{name}}", self._delete, True),
            *commands_api.routes(self.commands, self.service, self.db),
        ]
        static = Mount("/static", StaticFiles(directory=_WEB / "static"))
        return application(
            [
                *(
                    Route(path, self._guarded(handler, writes=writes), methods=[method])
                    for method, path, handler, writes in routes
                ),
                *(
                    Route(path, self._guarded(handler, writes=not is_open, is_open=is_open),
                          methods=[method])
                    for method, path, handler, is_open in enrolment_api.routes(self.enrolment)
                ),
                static,
            ]
        )  # fmt: skip

    def _guarded(self, handler: Handler, *, writes: bool, is_open: bool = False) -> Handler:
        """``is_open``: anybody may ask; what comes, and what is answered, is signed."""

        async def call(request: Request) -> Response:
            try:
                if (writes or not self.loopback) and not is_open:
                    self._authenticate(request)
                response = await handler(request)
            except ApplianceError as error:
                response = refusal(error)
            response.headers["content-security-policy"] = _POLICY
            response.headers["cache-control"] = "no-store"
            return response

        return call

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise SignatureError(
                "the hub's token is missing or wrong", hint="it is in identity/token of the hub"
            )

    def _views(self) -> list[NodeView]:
        now = self.clock.utc()

        def query(db: Any) -> list[NodeView]:
            suspects, missing = receipts.suspects(db), heads.missing(db)
            return [
                held(
                    suspected(
                        view(row, store.generation(db, row.node), now, self.heartbeat_s),
                        suspects.get(row.node),
                        missing.get(row.node),
                    ),
                    is_held=resume.is_held(db, row.node),
                )
                for row in store.nodes(db)
            ]

        return self.db.read(query)

    async def _page(self, _: Request) -> Response:
        page = _templates().get_template("nodes.html")
        html = page.render(
            nodes=self._views(),
            connected=self.service.connected,
            at=rfc3339(self.clock.utc()),
        )
        return HTMLResponse(html)

    async def _nodes(self, _: Request) -> Response:
        return JSONResponse({"nodes": [asdict(found) for found in self._views()]})

    async def _node(self, request: Request) -> Response:
        name = _name(request)
        row = self.db.read(lambda db: store.node(db, name))
        found = next(v for v in self._views() if v.node == row.node)
        body = {
            **asdict(found),
            "key": row.key,
            "site": row.site,
            "certificates": self.db.read(lambda db: roster.shown(db, row)),
            "reported": row.reported,
            "documents": self.db.read(lambda db: store.documents(db, name)),
            "positions": [asdict(p) for p in self.db.read(lambda db: store.positions(db, name))],
            "refusals": self.db.read(lambda db: store.refusals(db, name)),
        }
        return JSONResponse(body)

    async def _admit(self, request: Request) -> Response:
        name, at = _name(request), rfc3339(self.clock.utc())
        key = public_key((await _object(request)).get("key"))
        await self._write(lambda db: roster.admit(db, name, key, "", at))
        return JSONResponse({"node": name, "result": "admitted"})

    async def _apply(self, request: Request) -> Response:
        name = _name(request)
        found = (await _object(request)).get("documents")
        if not isinstance(found, list) or not found:
            raise UsageError("nothing to apply: the request holds no documents")
        documents = [reading.from_wire(d, "the request") for d in found]
        for document in documents:
            if not isinstance(document, ModelDeployment | Site):
                raise UsageError(f"a {document.kind} is not something a node is asked for")
        generation = await self._write(lambda db: store.put_documents(db, name, documents))
        await self.service.say(name)
        return JSONResponse({"node": name, "generation": generation})

    async def _delete(self, request: Request) -> Response:
        name, kind = _name(request), request.path_params["kind"]
        document = request.path_params["name"]
        generation = await self._write(lambda db: store.delete_document(db, name, kind, document))
        await self.service.say(name)
        return JSONResponse({"node": name, "generation": generation})

    async def _records(self, request: Request) -> Response:
        name, query = _name(request), request.query_params
        stream, after = query.get("stream", "usage"), query.get("after", "0")
        if not after.isdecimal() or len(after) > _MOST_DIGITS:
            raise UsageError(f"after is {after[:20]!r}, not a number of {_MOST_DIGITS} digits")
        newest = self.db.read(lambda db: store.node(db, name)).db_epoch
        where = (query.get("epoch", newest or ""), stream)
        found = self.db.read(lambda db: store.records(db, name, where, int(after), _MOST_RECORDS))
        return JSONResponse({"epoch": where[0], "stream": stream, "records": found})

    async def _batches(self, request: Request) -> Response:
        name = _name(request)
        return JSONResponse({"batches": self.db.read(lambda db: store.batches(db, name))})

    async def _all_receipts(self, _: Request) -> Response:
        return JSONResponse({"chains": self.db.read(receipts.listed)})

    async def _receipts(self, request: Request) -> Response:
        row = self.db.read(partial(store.node, name=_name(request)))
        found = self.db.read(lambda db: receipts.rows(db, row.node))
        chains = self.db.read(lambda db: receipts.listed(db, row.node))
        return JSONResponse({"chains": chains, "receipts": [asdict(r) for r in found]})

    async def _take_receipts(self, request: Request) -> Response:
        row = self.db.read(partial(store.node, name=_name(request)))
        roster.check_not_revoked(row)
        envelopes = receipts.body_of((await _object(request)).get("receipts"))
        return JSONResponse(await self.service.take_receipts(row, envelopes))

    async def _messages(self, request: Request) -> Response:
        found = await self.service.answers(_name(request))
        said = [{"topic": m.topic, "payload": m.payload.decode()} for m in found]
        return JSONResponse({"messages": said})

    async def _replay(self, request: Request) -> Response:
        row = self.db.read(partial(store.node, name=_name(request)))
        messages = _messages((await _object(request)).get("messages"))
        results = await self.service.replay(row, messages)
        positions = [asdict(p) for p in self.db.read(lambda db: store.positions(db, row.node))]
        return JSONResponse({"results": results, "positions": positions})

    async def _write(self, effect: Callable[[Any], Any]) -> Any:
        return await asyncio.wrap_future(self.db.submit(effect))


def _messages(found: object) -> list[Message]:
    if not isinstance(found, list):
        raise UsageError("the request holds no list of messages")
    try:
        return [Message(str(m["topic"]), str(m["payload"]).encode()) for m in found]
    except (TypeError, KeyError) as error:
        raise UsageError("a message has a topic and a payload") from error


async def _object(request: Request) -> dict[str, Any]:
    return wire.loads(await body_of(request), what="the request")


def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_WEB / "templates"), autoescape=True, auto_reload=False
    )


def _name(request: Request) -> str:
    try:
        return node_id(request.path_params["node"])
    except ValueError as error:
        raise UsageError(str(error)) from error
