"""Signed envelopes: DSSE v1 (Dead Simple Signing Envelope), read strictly.

What is signed is the pre-authentication encoding (PAE) of type and payload, so a payload of one
type can never pass for another. ``keyid`` is a hint that decides nothing: every signature is tried
with the keys that may sign, and distinct keys are counted, not signatures.
"""

import base64
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from appliance.core import wire
from appliance.errors import MalformedError, SignatureError
from appliance.trust.keys import Signer, verifies

MAX_ENVELOPE_BYTES = 64 << 10
_MAX_SIGNATURES = 16


@dataclass(frozen=True, slots=True)
class Opened:
    """An envelope whose signature was verified: these very bytes, and who signed them."""

    payload: bytes
    signers: frozenset[str]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that are signed.

    Source: the DSSE specification v1, "protocol.md".
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload_type: str, payload: bytes, *keys: Signer) -> bytes:
    """Return an envelope around ``payload``, as JSON, signed by each of ``keys``."""
    signed = pae(payload_type, payload)
    return wire.dumps(
        {
            "payloadType": payload_type,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [
                {"keyid": key.public[:16], "sig": base64.b64encode(key.sign(signed)).decode()}
                for key in keys
            ],
        }
    )


def verify(
    data: bytes,
    payload_type: str,
    keys: Collection[str],
    *,
    what: str,
    most: int = MAX_ENVELOPE_BYTES,
) -> Opened:
    """Return the payload if one of ``keys`` signed it as this type.

    Args:
        data: The envelope as it arrived.
        payload_type: What it must be; exactly this.
        keys: Public keys that may sign it.
        what: Names the envelope in errors.
        most: How long it may be.

    Raises:
        MalformedError: too long, or not a strict DSSE envelope of this type.
        SignatureError: none of the keys signed it.
    """
    if len(data) > most:
        raise MalformedError(f"{what} has {len(data)} bytes, more than {most}")
    envelope = wire.loads(data, what=what)
    if set(envelope) != {"payloadType", "payload", "signatures"}:
        raise MalformedError(f"{what} is not a DSSE envelope")
    if envelope["payloadType"] != payload_type:
        found = repr(envelope["payloadType"])[:100]
        raise MalformedError(f"{what} is of type {found}, not {payload_type}")
    payload = _base64(envelope["payload"], what)
    signed = pae(payload_type, payload)
    signers = frozenset(
        key for key in keys for s in _signatures(envelope, what) if verifies(key, s, signed)
    )
    if not signers:
        raise SignatureError(f"{what} is not signed by a key that may sign it")
    return Opened(payload, signers)


def unverified(data: bytes, *, what: str) -> dict[str, Any]:
    """Return the payload of an envelope that nobody is asked to believe: one of our own."""
    return wire.loads(_base64(wire.loads(data, what=what).get("payload"), what), what=what)


def payload_hash(data: bytes) -> str:
    """Return the SHA-256 of the payload in an envelope of our own."""
    what = "an envelope of our own"
    return hashlib.sha256(_base64(wire.loads(data, what=what).get("payload"), what)).hexdigest()


def _signatures(envelope: dict[str, object], what: str) -> list[bytes]:
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MAX_SIGNATURES:
        raise MalformedError(f"{what} has not 1 to {_MAX_SIGNATURES} signatures")
    if not all(isinstance(s, dict) and set(s) <= {"keyid", "sig"} for s in signatures):
        raise MalformedError(f"{what} has a signature that is not one")
    return [_base64(s.get("sig"), what) for s in signatures]


def _base64(text: object, what: str) -> bytes:
    """Return the bytes in ``text``, which has one spelling for them and no other."""
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError as error:
        raise MalformedError(f"{what} holds text that is not base64") from error
    if data is None or base64.b64encode(data).decode() != text:
        raise MalformedError(f"{what} holds something that is not base64")
    return data
