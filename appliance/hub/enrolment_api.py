"""The hub's REST routes for enrolment, certificates and revocation."""

import datetime
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from appliance.core import wire
from appliance.core.ids import NodeId, node_id
from appliance.errors import MalformedError, UsageError
from appliance.hub.enrolment import Enrolment
from appliance.kit.answers import body_of
from appliance.trust.keys import public_key

_MOST_WHY = 200
_MOST_MINUTES = 60 * 24 * 7

Handler = Callable[[Request], Awaitable[Response]]
OpenRoute = tuple[str, str, Handler, bool]
"""Method, path, handler, and whether it is open to who has no token of the API."""


def routes(enrolment: Enrolment | None) -> list[OpenRoute]:
    """Return the routes; none for a hub without an authority."""
    if enrolment is None:
        return []
    group, node = _Routes(enrolment), "/api/v1/nodes/{node}"
    return [
        ("POST", "/api/v1/enrol", group.answer, True),
        ("POST", "/api/v1/enrol/look", group.look, False),
        ("POST", "/api/v1/enrol/approve", group.approve, False),
        ("POST", f"{node}/token", group.token, False),
        ("POST", f"{node}/revoke", group.revoke, False),
        ("POST", f"{node}/replace", group.replace, False),
        ("GET", "/api/v1/authority", group.authority, True),
        ("GET", "/api/v1/crl", group.crl, True),
    ]


class _Routes:
    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment

    async def answer(self, request: Request) -> Response:
        return JSONResponse(await self._enrolment.answer(_envelope(await _object(request))))

    async def look(self, request: Request) -> Response:
        asked = self._enrolment.look(_envelope(await _object(request)))
        return JSONResponse({"node": asked.node, "fingerprint": asked.fingerprint})

    async def approve(self, request: Request) -> Response:
        body = await _object(request)
        compared = _text(body, "fingerprint")
        answer = await self._enrolment.approve(
            _envelope(body), compared, site=_text(body, "site"), replaces=_flag(body, "replaces")
        )
        return JSONResponse(answer)

    async def token(self, request: Request) -> Response:
        name, body = _name(request), await _object(request)
        minutes = body.get("minutes")
        if not isinstance(minutes, int) or not 1 <= minutes <= _MOST_MINUTES:
            raise UsageError(f"minutes is {minutes!r}, not a whole number from 1 to a week's")
        life = datetime.timedelta(minutes=minutes)
        made = await self._enrolment.new_token(
            name, _text(body, "site"), life, replaces=_flag(body, "replaces")
        )
        return JSONResponse({"node": name, "token": made.text, "minutes": minutes})

    async def revoke(self, request: Request) -> Response:
        why = _text(await _object(request), "why").strip()
        if not why or len(why) > _MOST_WHY or not why.isprintable():
            raise UsageError(f"say why, in 1 to {_MOST_WHY} characters that can be shown")
        row = await self._enrolment.revoke(_name(request), why)
        return JSONResponse({"node": row.node, "key": row.key, "revoked_at": row.revoked_at})

    async def replace(self, request: Request) -> Response:
        name, key = _name(request), public_key((await _object(request)).get("key"))
        generation = await self._enrolment.replace(name, key)
        return JSONResponse({"node": name, "key": key, "generation": generation})

    async def authority(self, _: Request) -> Response:
        found = self._enrolment.authority
        return JSONResponse({"pem": found.pem, "hash": found.hash})

    async def crl(self, _: Request) -> Response:
        return PlainTextResponse(self._enrolment.crl())


async def _object(request: Request) -> dict[str, Any]:
    return wire.loads(await body_of(request), what="the request")


def _envelope(body: dict[str, Any]) -> bytes:
    found = body.get("request")
    if not isinstance(found, dict):
        raise MalformedError("the request holds no signed request for a certificate")
    return wire.dumps(found)


def _text(body: dict[str, Any], name: str) -> str:
    found = body.get(name, "")
    if not isinstance(found, str):
        raise UsageError(f"{name} is not a text")
    return found


def _flag(body: dict[str, Any], name: str) -> bool:
    return body.get(name) is True


def _name(request: Request) -> NodeId:
    try:
        return node_id(request.path_params["node"])
    except ValueError as error:
        raise UsageError(str(error)) from error
