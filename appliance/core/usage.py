"""Usage facts: what the gateway writes to its spool and the controller takes into the ledger.

The spool is one JSON object a line. A request writes a ``begin`` when it is accepted and an ``end``
when its last byte left, so that a gateway that is killed in between still leaves a record: a
``begin`` without an ``end`` in a spool that nobody writes any more is a request that was cut.
There is no prompt, no completion and no client address in it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from appliance.core import wire
from appliance.errors import MalformedError


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    FAILED = "failed"
    """Answered with an error status, by the engine or by the gateway."""
    CANCELLED = "cancelled"
    """The caller left before the answer was complete."""
    CUT = "cut"
    """The engine or the gateway died in the middle of the answer."""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One request. Times are UTC in RFC 3339, durations in milliseconds.

    Token counts are ``None`` where the engine did not say. ``request_id`` is the caller's own
    ``X-Request-Id``, or one that the gateway made.
    """

    id: str
    at: str
    request_id: str
    route: str
    model: str | None
    key: str | None
    stream: bool
    status: int | None = None
    outcome: Outcome = Outcome.CUT
    replica: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    wait_ms: float | None = None
    first_token_ms: float | None = None
    duration_ms: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def begin_line(record: UsageRecord) -> bytes:
    """Return the spool line for a request that was accepted."""
    return wire.dumps({"v": 1, "phase": "begin", "record": record.to_wire()}) + b"\n"


def end_line(record: UsageRecord) -> bytes:
    """Return the spool line for a request that is over."""
    return wire.dumps({"v": 1, "phase": "end", "record": record.to_wire()}) + b"\n"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one look at a spool gave: finished records, how far it was read, who is still open."""

    records: tuple[dict[str, Any], ...]
    offset: int
    open: dict[str, dict[str, Any]] = field(default_factory=dict)


def take(data: bytes, offset: int, *, finished: bool) -> Taken:
    """Return the records that end behind ``offset`` of a spool file's whole content.

    With ``finished`` (nobody writes it any more) what is still open is returned as cut, and a last
    line without its end is passed over: it was never complete, so it never counted. The offset is
    then one behind the file's end, and from there nothing is returned again: who is killed before
    the file is removed must not count its cut requests twice.

    Raises:
        MalformedError: a complete line is not a usage fact.
    """
    if offset > len(data):
        return Taken((), offset)
    whole = data[: data.rfind(b"\n") + 1]
    still_open: dict[str, dict[str, Any]] = {}
    records: list[dict[str, Any]] = []
    position = 0
    for line in whole.splitlines(keepends=True):
        phase, record = _fact(line)
        if phase == "begin":
            still_open[record["id"]] = record
        else:
            still_open.pop(record["id"], None)
            if position >= offset:
                records.append(record)
        position += len(line)
    if finished:
        records.extend(_cut(still_open.values()))
        return Taken(tuple(records), len(data) + 1)
    return Taken(tuple(records), max(len(whole), offset), still_open)


def _cut(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    return ({**record, "outcome": Outcome.CUT.value} for record in records)


def _fact(line: bytes) -> tuple[str, dict[str, Any]]:
    fact = wire.loads(line, what="a line of the usage spool")
    phase, record = fact.get("phase"), fact.get("record")
    if phase not in ("begin", "end") or not isinstance(record, dict):
        raise MalformedError("a line of the usage spool is neither a begin nor an end")
    if not isinstance(record.get("id"), str) or not isinstance(record.get("at"), str):
        raise MalformedError("a line of the usage spool does not say which request, or when")
    return phase, record
