"""Usage facts: what the gateway writes to its spool and the controller takes into the ledger.

The spool is one JSON object a line. A request writes a ``begin`` when it is accepted and an ``end``
when its last byte left, so that a gateway that is killed in between still leaves a record: a
``begin`` without an ``end`` in a spool that nobody writes any more is a request that was cut.
There is no prompt, no completion and no client address in it.
"""

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

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


@dataclass(frozen=True, slots=True)
class Generated:
    """What one request gave, between its first token and its end."""

    model: str
    since: datetime.datetime
    until: datetime.datetime
    tokens: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self | None:
        """Return what a record says; None when it names no model, or one that nobody serves here.

        A record comes from a file: what it does not say, or says wrongly, counts for nothing.
        """
        model, status = record.get("model"), record.get("status")
        if not isinstance(model, str) or not model or status == 404:
            return None
        try:
            at = datetime.datetime.fromisoformat(str(record.get("at"))).astimezone(datetime.UTC)
            since, until = (
                at + datetime.timedelta(milliseconds=_number(record.get(name)))
                for name in ("first_token_ms", "duration_ms")
            )
        except (ValueError, OverflowError):
            return None
        tokens = record.get("completion_tokens")
        return cls(model, min(since, until), until, tokens if isinstance(tokens, int) else 0)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def tokens_per_second(
    found: Iterable[Generated], now: datetime.datetime, window: datetime.timedelta
) -> dict[str, float]:
    """Return how many tokens a second each model gave on average over the last ``window``.

    Only what fell into it counts: the tokens of a request are taken as evenly spread from its first
    to its end. A model that gave none is left out.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    for one in found:
        inside = min(one.until, now) - max(one.since, now - window)
        if one.until <= now - window or one.since > now or not one.tokens:
            continue
        took = one.until - one.since
        share = inside / took if took else 1.0
        totals[one.model] += one.tokens * share
    return {model: total / window.total_seconds() for model, total in totals.items() if total}


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
