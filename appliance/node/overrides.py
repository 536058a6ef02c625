"""Site first: holds, pins and overrides, each with a reason, and with an end if somebody set one.

Functions here work inside somebody's transaction on a connection they are given.
"""

import asyncio
import datetime
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from appliance.cache import catalog, pins
from appliance.core import reading
from appliance.core.documents import Document, ModelDeployment
from appliance.core.quantity import DURATION_ALLOWED, parse_duration
from appliance.errors import ApplianceError, BadDocumentError, NotFoundError, UsageError
from appliance.kit.clock import Clock, parse_rfc3339, rfc3339
from appliance.kit.loop import Again
from appliance.ledger import meta, overrides, streams
from appliance.ledger.db import Ledger
from appliance.ledger.overrides import Mode, Override
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired
from appliance.planner import select
from appliance.trust import floor
from appliance.trust.floor import Now

log = logging.getLogger(__name__)
_KIND = ModelDeployment.kind_name
_LOOK_S = 30.0


@dataclass(frozen=True, slots=True)
class Why:
    """Who says so, when, why, and until when; ``until`` as in ``Override``."""

    by: str
    at: str
    reason: str
    until: str | None = None

    def override(self, kind: str, name: str, mode: Mode) -> Override:
        """Return the row that says so of an object."""
        return Override(kind, name, mode, self.reason, self.until, self.by, self.at)


def hold(db: sqlite3.Connection, name: str, why: Why) -> str:
    """Keep a deployment as it is in force now, whatever the fleet says; return that in words.

    Raises:
        NotFoundError: nothing of this name is in force.
        UsageError: the fleet does not ask for it, or another node of the site projects it.
    """
    found = next((d for d in desired.in_force(db).deployments if d.document.name == name), None)
    if found is None:
        raise NotFoundError(f"no deployment {name!r} is in force", hint="appliance get lists them")
    _theirs(db, name, "held")
    desired.apply_locally(db, found.document, why.by, why.at)
    overrides.keep(db, why.override(_KIND, name, Mode.HOLD))
    return f"held as it is{_end(why)}"


@dataclass(frozen=True, slots=True)
class Pinned:
    """Which model a deployment keeps, as in ``spec.model``, and that in words."""

    model: str
    told: str


def pin(
    db: sqlite3.Connection, name: str, model: str | None, why: Why, *, anyway: bool = False
) -> Pinned:
    """Keep a deployment's model, and let the rest follow the fleet.

    Args:
        db: The ledger.
        name: The deployment's.
        model: As in ``spec.model``; None takes the manifest that serves now.
        why: Who, and the reason.
        anyway: Whether to pin it also to a model that is not here, so that nothing serves.

    Raises:
        NotFoundError: nothing of it serves yet, so there is no model to keep; or nothing here is
            the model.
        UsageError: the fleet does not ask for it, or ``model`` is not the name of one.
    """
    theirs = _theirs(db, name, "pinned")
    wanted = model or _serving(db, theirs)
    data = theirs.to_wire()
    data["spec"]["model"] = wanted
    try:
        document = reading.from_wire(data, "the pin")
    except BadDocumentError as error:
        raise UsageError(error.what) from error
    waits = None if model is None else waiting(db, document)
    if waits is not None and not anyway:
        raise NotFoundError(
            f"{waits}; pinned to it, {name} would stop serving",
            hint="appliance model list shows what is here; --anyway pins it before it comes",
        )
    desired.apply_locally(db, document, why.by, why.at)
    overrides.keep(db, why.override(_KIND, name, Mode.PIN))
    told = f"pinned to {wanted}{_end(why)}"
    return Pinned(wanted, told if waits is None else f"{told}; it waits: {waits}")


def waiting(db: sqlite3.Connection, document: Document) -> str | None:
    """Return in words that nothing here is the model that a document asks for; None if it is."""
    if not isinstance(document, ModelDeployment):
        return None
    found = select.select(document, catalog.variants(db))
    return None if found.candidates else found.why


def override(db: sqlite3.Connection, document: Document, why: Why) -> str:
    """Put a local document in force with a reason; return what that did, as ``apply_locally``.

    Raises:
        UsageError: it is to end, and is not a deployment.
    """
    if why.until is not None and document.kind != _KIND:
        raise UsageError(f"a {document.kind} has no end: say it without --until")
    result = desired.apply_locally(db, document, why.by, why.at)
    overrides.keep(db, why.override(document.kind, document.name, Mode.OVERRIDE))
    return result


def expire(db: sqlite3.Connection, now: Now, at: str) -> list[str]:
    """Drop the words whose time is over, and note it for the hub; return their names.

    A clock that is wrong ends none: ``now`` is the newest signed time then, which has passed.
    """
    ended = []
    for row in list(overrides.rows(db).values()):
        if row.until is None or parse_rfc3339(row.until) > now.at:
            continue
        try:
            desired.release(db, row.name)
        except ApplianceError as error:  # the word itself is gone already
            log.info("%s had nothing left to end: %s", row.name, error)
        overrides.forget(db, row.kind, row.name)
        body = {"mode": row.mode, "name": row.name, "reason": row.reason, "until": row.until}
        streams.append(db, Fact(Stream.AUDIT, "override-expired", at, body))
        ended.append(row.name)
    return ended


def until(text: str | None, now: Now) -> str | None:
    """Return when a word ends, from a time or a duration that a person wrote.

    Raises:
        UsageError: it is neither, or has passed.
    """
    if not text:
        return None
    try:
        ends = now.at + datetime.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        try:
            ends = parse_rfc3339(text)
        except ValueError as error:
            raise UsageError(
                f"{text[:60]!r} is not a time such as 2026-12-24T18:00:00Z, nor {DURATION_ALLOWED}"
            ) from error
    if ends <= now.at:
        raise UsageError(f"{rfc3339(ends)} has passed; now is {rfc3339(now.at)}")
    return rfc3339(ends)


class OverrideLoop:
    """Ends what was to end."""

    def __init__(
        self, ledger: Ledger, clock: Clock, changed: Callable[[], Awaitable[None]]
    ) -> None:
        """``changed`` is called when a word has fallen away."""
        self._ledger = ledger
        self._clock = clock
        self._changed = changed

    async def look(self) -> Again:
        """Drop the words whose time is over."""
        now = floor.now(self._ledger.read(meta.floor), self._clock.utc())
        rows = self._ledger.read(overrides.rows).values()
        ends = [parse_rfc3339(r.until) for r in rows if r.until is not None]
        if any(e <= now.at for e in ends):
            at = rfc3339(self._clock.utc())
            ended = await asyncio.wrap_future(self._ledger.record(lambda db: expire(db, now, at)))
            log.info("the time of local words is over: %s", ", ".join(ended))
            await self._changed()
        waits = [(e - now.at).total_seconds() for e in ends if e > now.at]
        return Again(min([_LOOK_S, *(max(wait, 0.1) for wait in waits)]))


def _theirs(db: sqlite3.Connection, name: str, verb: str) -> ModelDeployment:
    word = desired.fleet(db)
    for document in word.documents:
        if isinstance(document, ModelDeployment) and document.name == name:
            return document
    raise UsageError(
        f"the fleet does not ask for {name!r}, so nothing of it needs to be {verb}",
        hint="what stands only here changes only here: appliance apply -f FILE",
    )


def _serving(db: sqlite3.Connection, theirs: ModelDeployment) -> str:
    known = pins.choices(db).get(theirs.name)
    if known is None:
        raise NotFoundError(
            f"nothing serves for {theirs.name!r} yet", hint="name the model: --model NAME@VERSION"
        )
    return f"{theirs.spec.model.partition('@')[0]}@{known.serving or known.chosen}"


def _end(why: Why) -> str:
    return "; release gives it back" if why.until is None else f" until {why.until}"
