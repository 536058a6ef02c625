"""What each verb does on this node. A failure is an answer too: it is raised, and told."""

import asyncio
import datetime
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.core import wire
from appliance.core.commands import GOLDEN, Command, Golden, Verb
from appliance.core.state import DeploymentStatus, Phase
from appliance.errors import ApplianceError, CorruptError, EngineError, NotFoundError
from appliance.kit.clock import Clock, rfc3339
from appliance.kit.http import HttpClient
from appliance.ledger import meta
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Stream
from appliance.node import overrides
from appliance.node.board import Board
from appliance.node.overrides import Why
from appliance.trust import floor

_MOST_BYTES = 40 << 10
"""What a verb may return, so that the signed envelope stays below 64 KiB."""

_READY_S = 300.0
_LOOK_S = 0.1
_ANSWER_S = 60.0
_USUAL_LINES = 50
_LEFT_OUT = ("wanted", "deployments")
"""Of the status: what the hub has from the report anyway."""

DIRECTOR = "the director"

Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def ask_engine(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return an engine's answer to one chat request. Blocking.

    Args:
        endpoint: As in ``ObservedReplica``: the path of a socket, or ``http://IP:PORT``.
        body: The request.

    Raises:
        ApplianceError: it did not answer, or with an error.
    """
    hint = "its log says more"
    if endpoint.startswith("http://"):
        client = HttpClient.over_tcp(endpoint, "the engine", hint)
    else:
        client = HttpClient.over_unix(Path(endpoint), "the engine", hint, _ANSWER_S)
    return client.call("POST", "/v1/chat/completions", body)


@dataclass(frozen=True, slots=True)
class Around:
    """What verbs act on.

    ``restart`` stops the engines of a deployment, which the next pass starts again, and returns
    their ids; ``changed`` makes a pass before it returns; ``log_lines`` may block.
    """

    ledger: Ledger
    board: Board
    clock: Clock
    status: Callable[[], dict[str, Any]]
    log_lines: Callable[[str, int], dict[str, list[str]]]
    restart: Callable[[str], Awaitable[list[str]]]
    changed: Callable[[], Awaitable[None]]
    ask: Ask = ask_engine


class Verbs:
    """Carries commands out; ``do`` is what ``commands.Hands`` needs."""

    def __init__(self, around: Around) -> None:
        self._around = around

    async def do(self, command: Command) -> dict[str, Any]:
        """Carry one out and return what is to be told.

        Raises:
            ApplianceError: why it failed.
        """
        doing = {
            Verb.COLLECT: self._collect,
            Verb.RESTART: self._restart,
            Verb.GOLDEN: self._golden,
            Verb.HOLD: self._hold,
        }
        return await doing[command.verb](command.args)

    async def _collect(self, args: Mapping[str, Any]) -> dict[str, Any]:
        around, lines = self._around, int(args.get("lines", _USUAL_LINES))
        status = {k: v for k, v in around.status().items() if k not in _LEFT_OUT}
        logs: dict[str, list[str]] = {}
        for found in around.board.world.statuses:
            try:
                logs |= await asyncio.to_thread(around.log_lines, found.name, lines)
            except ApplianceError as error:
                logs[found.name] = [f"no log: {error.what}"]
        return fitted(status, logs)

    async def _restart(self, args: Mapping[str, Any]) -> dict[str, Any]:
        around, name = self._around, str(args["deployment"])
        self._find(name)
        began = around.clock.monotonic()
        stopped = await around.restart(name)
        await around.changed()
        while stopped and not self._find(name).is_ready:
            if around.clock.monotonic() - began > _READY_S:
                raise EngineError(
                    f"{name} was not ready again within {_READY_S:.0f} s: {self._why(name)}"
                )
            await around.clock.sleep(_LOOK_S)
        took = around.clock.monotonic() - began
        return {"stopped": stopped, "ready_after_s": round(took, 3)}

    async def _golden(self, args: Mapping[str, Any]) -> dict[str, Any]:
        name, expect = str(args["deployment"]), dict(args.get("expect", {}))
        found = self._find(name)
        engines = [e for e in found.engines if e.phase is Phase.READY and e.endpoint]
        if not engines:
            raise EngineError(f"no engine of {name} is ready: {self._why(name)}")
        answers = {
            engine.id: [await self._ask(name, str(engine.endpoint), g) for g in GOLDEN]
            for engine in engines
        }
        other = sorted(
            f"{answer['id']} at {engine}"
            for engine, given in answers.items()
            for answer in given
            if expect.get(answer["id"], answer["sha256"]) != answer["sha256"]
        )
        if other:
            raise CorruptError(f"{name} answers otherwise than expected: {', '.join(other)}")
        variant = found.variant
        return {"manifest": None if variant is None else variant.manifest, "answers": answers}

    async def _ask(self, name: str, endpoint: str, golden: Golden) -> dict[str, Any]:
        body = {
            "model": name, "temperature": 0, "seed": 1, "max_tokens": golden.tokens,
            "messages": [{"role": "user", "content": golden.prompt}],
        }  # fmt: skip
        began = self._around.clock.monotonic()
        answer = await asyncio.to_thread(self._around.ask, endpoint, body)
        took = self._around.clock.monotonic() - began
        try:
            text = str(answer["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise EngineError(
                f"an engine of {name} answered something without a message"
            ) from error
        if not text.strip():
            raise EngineError(f"an engine of {name} answered nothing to {golden.id}")
        digest = hashlib.sha256(text.encode()).hexdigest()
        return {"id": golden.id, "sha256": digest, "text": text[:400], "took_s": round(took, 3)}

    async def _hold(self, args: Mapping[str, Any]) -> dict[str, Any]:
        around, name = self._around, str(args["deployment"])
        clock = around.clock.utc()
        now, at, until = floor.now(around.ledger.read(meta.floor), clock), rfc3339(clock), None
        if "minutes" in args:
            until = rfc3339(now.at + datetime.timedelta(minutes=args["minutes"]))
        why = Why(DIRECTOR, at, str(args["reason"]), until)
        fact = Fact(Stream.AUDIT, "hold", at, {"by": DIRECTOR, "name": name, "reason": why.reason})
        done = around.ledger.record(lambda db: overrides.hold(db, name, why), fact)
        result = await asyncio.wrap_future(done)
        await around.changed()
        return {"result": result, "until": until}

    def _find(self, name: str) -> DeploymentStatus:
        for found in self._around.board.world.statuses:
            if found.name == name:
                return found
        raise NotFoundError(f"no deployment {name!r} is in force")

    def _why(self, name: str) -> str:
        ready = self._find(name).condition("Ready")
        return "not known" if ready is None else ready.message


def fitted(status: dict[str, Any], logs: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return diagnostics that fit into an envelope: the newest lines, and all of the status.

    A status that is too long by itself is cut to its shortest entries.
    """
    kept, left_out = {name: list(lines) for name, lines in logs.items()}, 0
    found = {"status": status, "logs": kept, "lines_left_out": 0}
    while len(wire.dumps(found)) > _MOST_BYTES and any(kept.values()):
        longest = max(kept, key=lambda name: len(kept[name]))
        half = (len(kept[longest]) + 1) // 2
        left_out += half
        del kept[longest][:half]
        found["lines_left_out"] = left_out
    while len(wire.dumps(found)) > _MOST_BYTES and status:
        largest = max(status, key=lambda name: len(wire.dumps(status[name])))
        status = {k: v for k, v in status.items() if k != largest}
        found["status"] = {**status, "left_out": largest}
    return found
