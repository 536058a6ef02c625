"""The hub's API for commands and for going back."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from appliance.core import wire
from appliance.core.ids import node_id
from appliance.errors import UsageError
from appliance.hub import store, words
from appliance.hub.commands import CommandDesk
from appliance.hub.service import HubService
from appliance.kit.answers import body_of
from appliance.kit.commit import GroupCommit

Handler = Callable[[Request], Awaitable[Response]]
Found = tuple[str, str, Handler, bool]
_USUAL_S = 600.0


def routes(desk: CommandDesk | None, service: HubService, db: GroupCommit) -> list[Found]:
    """Return method, path, handler and whether it writes, of each route; none without a desk."""
    if desk is None:
        return []
    node = "/api/v1/nodes/{node}"

    async def issue(request: Request) -> Response:
        name, body = _name(request), await _object(request)
        args, lifetime = body.get("args", {}), body.get("expires_s", _USUAL_S)
        if not isinstance(args, dict):
            raise UsageError("args is not an object")
        if not isinstance(lifetime, int | float) or isinstance(lifetime, bool):
            raise UsageError("expires_s is not a number of seconds")
        found = await desk.issue(name, str(body.get("verb")), args, lifetime_s=float(lifetime))
        service.tell(db.read(partial(store.node, name=name)))
        return JSONResponse({"node": name, **found.to_wire()})

    async def listed(request: Request) -> Response:
        found = desk.listed(_name(request))
        return JSONResponse({"commands": [one.to_wire() for one in found]})

    async def roll_back(request: Request) -> Response:
        name, body = _name(request), await _object(request)
        to, why, keep = body.get("to"), body.get("why"), body.get("keep", False)
        if not isinstance(to, int) or isinstance(to, bool) or not isinstance(why, str):
            raise UsageError("a rollback needs to, a generation, and why, a text")
        if not isinstance(keep, bool):
            raise UsageError("keep is neither true nor false")
        done = db.submit(partial(words.roll_back, node=name, to=to, why=why, keep=keep))
        generation = await asyncio.wrap_future(done)
        await service.say(name)
        return JSONResponse({"node": name, "generation": generation, "to": to})

    return [
        ("POST", f"{node}/commands", issue, True),
        ("GET", f"{node}/commands", listed, False),
        ("POST", f"{node}/rollback", roll_back, True),
    ]


async def _object(request: Request) -> dict[str, Any]:
    return wire.loads(await body_of(request), what="the request")


def _name(request: Request) -> str:
    try:
        return node_id(request.path_params["node"])
    except ValueError as error:
        raise UsageError(str(error)) from error
