"""Receipts: what a node signs of itself, so that a stick that comes home tells the truth. Pure.

A receipt is a DSSE envelope by the node's key. ``seq`` counts from 1 in each ledger, ``previous``
is the SHA-256 of the payload before it: so one that is left out, swapped or invented shows, and so
does a node that was cloned or put back. It names no host, no serial, no path and no prompt.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import ApplianceError, MalformedError, ScopeError
from appliance.trust import dsse
from appliance.trust.envelope import Slot, whole
from appliance.trust.keys import Signer

MAX_RECEIPT_BYTES = 900 << 10
_MOST_STORE = 8_000
"""Digests in one receipt. A delta against a cut list is larger than it could be, never wrong."""

_LONGEST_REASON = 300
_LONGEST_NAME = 64
_PATH = re.compile(r"(?<![\w.)/])/[^\s,:;'\"()]+")
_HASH = re.compile(r"[0-9a-f]{64}")


class Kind(StrEnum):
    """What a receipt is about. ``export``: nothing happened, somebody asked how things are."""

    IMPORT = "import"
    REFUSAL = "refusal"
    ACTIVATION = "activation"
    EXPORT = "export"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened; the parts that say nothing are None."""

    kind: Kind
    bundle: dict[str, str] | None = None
    outcome: dict[str, Any] | None = None
    activated: dict[str, str] | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the fields of a payload."""
        return {
            "kind": self.kind,
            "bundle": self.bundle,
            "outcome": self.outcome,
            "activated": self.activated,
        }


EXPORTED = Event(Kind.EXPORT)


def imported(name: str, version: str) -> Event:
    """Return the event of a bundle that was taken in."""
    return Event(Kind.IMPORT, bundle={"name": name, "version": version})


def refused(
    error: ApplianceError, bundle: tuple[str, str] | None = None, *, private: Iterable[str] = ()
) -> Event:
    """Return the event of a bundle that was not.

    Args:
        error: Why.
        bundle: What it calls itself, when it came that far. Nobody signed that.
        private: What must not stand in a receipt: the medium's name, such as a stick's serial.
    """
    why = _without(error.what, private)[:_LONGEST_REASON]
    named = None
    if bundle is not None:
        name, version = (_without(text, private)[:_LONGEST_NAME] for text in bundle)
        named = {"name": name, "version": version}
    outcome = {"code": error.code, "exit": error.exit_code, "why": why}
    return Event(Kind.REFUSAL, bundle=named, outcome=outcome)


def activated(deployment: str, model: str, manifest: str) -> Event:
    """Return the event of a deployment that serves another manifest than before."""
    return Event(
        Kind.ACTIVATION,
        activated={"deployment": deployment, "model": model, "manifest": manifest},
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt whose signature was verified; ``hash`` is the SHA-256 of its payload."""

    payload: dict[str, Any]
    hash: str
    epoch: str
    seq: int
    previous: str
    nonce: str | None
    audit: tuple[int, str]

    @property
    def store(self) -> frozenset[Digest]:
        """The blobs that the node held: what a delta may build on."""
        return frozenset(Digest(d) for d in self.payload["store"])


def role(data: bytes) -> dict[str, Any]:
    """Return version and hash of a role's metadata, which was verified before."""
    version = json.loads(data)["signed"]["version"]
    return {"version": version, "sha256": hashlib.sha256(data).hexdigest()}


def listed(held: Sequence[Digest]) -> list[Digest]:
    """Return of the blobs that are held those that one receipt can list."""
    return list(held[:_MOST_STORE])


def sign(payload: dict[str, Any], key: Signer) -> tuple[bytes, str]:
    """Return the envelope of a receipt, and the hash that the next one names."""
    data = wire.dumps(payload)
    return dsse.sign(Slot.RECEIPT, data, key), hashlib.sha256(data).hexdigest()


def open_receipt(data: bytes, keys: Collection[str], org: str | None, node: str) -> Receipt:
    """Return the receipt in an envelope.

    Args:
        data: The envelope as it arrived.
        keys: The key that the node was admitted by.
        org: The organisation it must be of; a node that no bundle told its organisation says none.
            None: of any.
        node: The node it must be of.

    Raises:
        MalformedError, SignatureError, ScopeError: which defence stopped it.
    """
    what = f"a receipt of {node}"
    opened = dsse.verify(data, Slot.RECEIPT, keys, what=what, most=MAX_RECEIPT_BYTES)
    found = wire.loads(opened.payload, what=what)
    if found.get("node") != node or found.get("nodeKey") not in keys:
        raise ScopeError(f"{what} is of another node, or of another key")
    if org is not None and found.get("org") not in (org, None):
        raise ScopeError(f"{what} is of the organisation {found.get('org')!r}, not {org!r}")
    _check_form(found, what)
    return Receipt(
        payload=found,
        hash=hashlib.sha256(opened.payload).hexdigest(),
        epoch=found["dbEpoch"],
        seq=whole(found, "seq"),
        previous=found["previous"],
        nonce=found["nonce"],
        audit=(whole(found["audit"], "seq"), found["audit"]["hash"]),
    )


def payload_of(envelope: bytes) -> dict[str, Any]:
    """Return what a receipt of our own says, without verifying it again."""
    return dsse.unverified(envelope, what="a receipt of our own")


def _check_form(found: dict[str, Any], what: str) -> None:
    audit, store, nonce = found.get("audit"), found.get("store"), found.get("nonce")
    checks = {
        "dbEpoch": _is_name(found.get("dbEpoch")),
        "seq": whole(found, "seq") > 0,
        "previous": found.get("previous") == "" or _is_hash(found.get("previous")),
        "issued": isinstance(found.get("issued"), str),
        "kind": found.get("kind") in list(Kind),
        "audit": isinstance(audit, dict) and _is_hash(audit.get("hash")),
        "nonce": nonce is None or _is_hash(nonce),
        "store": isinstance(store, list) and all(_is_digest(d) for d in store),
    }
    if wrong := [name for name, holds in checks.items() if not holds]:
        raise MalformedError(f"{what} has no {wrong[0]} of the form it must have")


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9]{1,64}", value) is not None


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and value[:7] == "sha256:" and _is_hash(value[7:])


def _without(text: str, private: Iterable[str]) -> str:
    for word in sorted((w for w in private if w), key=len, reverse=True):
        text = text.replace(word, "(the medium)")
    text = "".join(c if c.isprintable() else "?" for c in text)  # it will be shown on a screen
    return _PATH.sub("(a path)", text)
