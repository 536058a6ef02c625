"""Accepting what the hub sends: the second algorithm of TRUST, the part that needs no ledger.

Each step is one defence. Steps 9 (schema, listed artefacts) and 10 (one durable transaction) belong
to whoever acts on the payload.
"""

import datetime
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.core import wire
from appliance.errors import (
    EarlierLedgerError,
    EquivocationError,
    ExpiredError,
    MalformedError,
    ReplayError,
    RevokedError,
    ScopeError,
)
from appliance.kit.clock import parse_rfc3339, rfc3339
from appliance.trust import dsse
from appliance.trust.floor import Now
from appliance.trust.keys import Signer

_NONCE = re.compile(r"[0-9a-f]{64}")


class Slot(StrEnum):
    """What an envelope is for; each has a type of its own, so that none passes for another."""

    DESIRED = "application/vnd.edge-appliance.desired.v1+json"
    COMMAND = "application/vnd.edge-appliance.command.v1+json"
    OUTCOME = "application/vnd.edge-appliance.outcome.v1+json"
    REQUEST = "application/vnd.edge-appliance.csr.v1+json"
    ACK = "application/vnd.edge-appliance.ack.v1+json"
    REPORTED = "application/vnd.edge-appliance.reported.v1+json"
    BATCH = "application/vnd.edge-appliance.batch.v1+zstd"
    RECEIPT = "application/vnd.edge-appliance.receipt.v1+json"
    TIME = "application/vnd.edge-appliance.time.v1+json"


@dataclass(frozen=True, slots=True)
class Addressee:
    """Whom an envelope is for or from, by all the names it must carry."""

    org: str
    node: str
    node_key: str
    db_epoch: str

    def fields(self) -> dict[str, str]:
        """Return the fields that every payload carries."""
        return {
            "org": self.org,
            "node": self.node,
            "nodeKey": self.node_key,
            "dbEpoch": self.db_epoch,
        }


@dataclass(frozen=True, slots=True)
class Accepted:
    """A payload that passed, the SHA-256 of its bytes, what to call it, and who signed it."""

    payload: dict[str, Any]
    hash: str
    what: str
    signers: frozenset[str] = frozenset()


def seal(
    slot: Slot,
    to: Addressee,
    body: dict[str, Any],
    key: Signer,
    *,
    issued: datetime.datetime,
    lifetime: datetime.timedelta,
) -> bytes:
    """Return a signed envelope with the common fields and ``body``."""
    payload = {
        **to.fields(),
        "issued": rfc3339(issued),
        "expires": rfc3339(issued + lifetime),
        **body,
    }
    return dsse.sign(slot, wire.dumps(payload), key)


def accept(
    data: bytes,
    slot: Slot,
    keys: Collection[str],
    expected: Mapping[str, str],
    earlier: Collection[str] = (),
) -> Accepted:
    """Steps 1 to 5: form, type, signature, strict JSON, addressee.

    Args:
        data: The envelope as it arrived.
        slot: What it must be.
        keys: Who may sign it.
        expected: The common fields and what they must say: ``Addressee.fields()``.
        earlier: The epochs of ledgers that this node had before.

    Raises:
        EarlierLedgerError: it is for this node, and for a ledger that it had before.
        MalformedError, SignatureError, ScopeError: which defence stopped it.
    """
    what = f"the {slot.name.lower()} envelope"
    opened = dsse.verify(data, slot, keys, what=what)
    payload = wire.loads(opened.payload, what=what)
    wrong = {name for name, value in expected.items() if payload.get(name) != value}
    if wrong == {"dbEpoch"} and payload.get("dbEpoch") in tuple(earlier):
        raise EarlierLedgerError(f"{what} is for the ledger that this node had before")
    for name, value in expected.items():
        if name in wrong:
            raise ScopeError(f"{what} says {name} {payload.get(name)!r}, not {value!r}")
    return Accepted(payload, hashlib.sha256(opened.payload).hexdigest(), what, opened.signers)


def check_director_epoch(payload: dict[str, Any], trusted: int) -> bool:
    """Step 6. Return False to hold the envelope until newer metadata names its director.

    Raises:
        RevokedError: signed under a director epoch that offline keys have ended.
        MalformedError: no epoch in it.
    """
    epoch = whole(payload, "directorEpoch")
    if epoch < trusted:
        raise RevokedError(f"signed under director epoch {epoch}; {trusted} is in force")
    return epoch == trusted


def check_expiry(accepted: Accepted, now: Now) -> None:
    """Step 7: it is not expired at ``now``.

    Raises:
        MalformedError: it does not say when it expires.
        ExpiredError: it has.
    """
    what, payload = accepted.what, accepted.payload
    try:
        issued = parse_rfc3339(str(payload["issued"]))
        expires = parse_rfc3339(str(payload["expires"]))
    except (KeyError, ValueError) as error:
        raise MalformedError(f"{what} does not say when it was issued and expires") from error
    if issued >= expires:
        raise MalformedError(f"{what} expires before it was issued")
    if now.at >= expires:
        raise ExpiredError(
            f"{what} expired at {rfc3339(expires)}; now is {rfc3339(now.at)}",
            hint="check the clock of this machine and of the hub",
        )


def check_order(number: int, accepted: Accepted, last: int, last_hash: str) -> bool:
    """Step 8. Return False for a repetition of what was accepted last, which is a no-op.

    Raises:
        ReplayError: older than the last.
        EquivocationError: the same number with other content.
    """
    if number < last:
        raise ReplayError(f"generation {number} is older than {last}, which this node follows")
    if number == last:
        if accepted.hash != last_hash:
            raise EquivocationError(f"two different contents call themselves generation {number}")
        return False
    return True


def answered_nonce(accepted: Accepted) -> tuple[str, datetime.datetime]:
    """Return the nonce that a time answers, and that time.

    Raises:
        MalformedError: one of them is not there, or the time lies outside the envelope's own.
    """
    what, payload = accepted.what, accepted.payload
    try:
        issued, expires, time = (
            parse_rfc3339(str(payload[name])) for name in ("issued", "expires", "time")
        )
    except (KeyError, ValueError) as error:
        raise MalformedError(f"{what} does not say what time it is") from error
    nonce = payload.get("nonce")
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise MalformedError(f"{what} does not name a nonce of 256 bits")
    if not issued <= time < expires:
        raise MalformedError(f"{what} tells a time at which it was not valid")
    return nonce, time


def whole(payload: dict[str, Any], name: str) -> int:
    """Return a whole number from a payload.

    Raises:
        MalformedError: it is not there, not whole, or negative.
    """
    value = payload.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise MalformedError(f"{name} is {value!r}, not a whole number")
    return value
