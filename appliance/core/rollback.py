"""Going back on purpose: a newer generation may say what an older one said only if it says so.

Pure. Generations only grow; what they say could still go back, by a hub that was restored or by
somebody who pressed the wrong key. So a set of documents that was in force before comes back only
in a word that names the generation it returns to, and why.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance.core import wire
from appliance.errors import DowngradeError, MalformedError

MOST_WHY = 200


@dataclass(frozen=True, slots=True)
class Rollback:
    """The generation whose documents are in force again, and why."""

    to: int
    why: str

    def to_wire(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def texts_of(documents: Sequence[object]) -> list[str]:
    """Return documents as canonical JSON, in an order that does not depend on who sent them."""
    return sorted(wire.dumps(document).decode() for document in documents)


def digest_of(texts: Sequence[str]) -> str:
    """Return the SHA-256 of a set of documents, of which these are the texts.

    It is over what is on the wire, so that a release that reads more of it knows it again.
    """
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def check(
    payload: Mapping[str, Any], generation: int, digest: str, heard: Mapping[int, str]
) -> Rollback | None:
    """Return the rollback that a word says it is, or None when it is none.

    Args:
        payload: The word's.
        generation: Its own number.
        digest: Of its documents.
        heard: Digests of the generations that were in force on this node, the newest included.

    Raises:
        MalformedError: what it says of going back makes no sense, or names a generation that said
            something else here.
        DowngradeError: it brings back what an older generation said, and does not say so.
    """
    found = _parsed(payload.get("rollback"), generation)
    newest = heard.get(max(heard, default=0))
    if found is not None:
        if heard.get(found.to, digest) != digest:
            raise MalformedError(
                f"generation {generation} says that it returns to {found.to}, which said otherwise"
            )
        return found
    if digest != newest and digest in heard.values():
        before = max(number for number, known in heard.items() if known == digest)
        raise DowngradeError(
            f"generation {generation} brings back what generation {before} said, and does not say "
            "that it is a rollback",
            hint="at the hub: appliance hub rollback NODE --to GENERATION --why TEXT",
        )
    return None


def _parsed(found: object, generation: int) -> Rollback | None:
    if found is None:
        return None
    if not isinstance(found, dict) or set(found) != {"to", "why"}:
        raise MalformedError("rollback is not an object of to and why")
    to, why = found["to"], found["why"]
    if not isinstance(to, int) or isinstance(to, bool) or not 0 < to < generation:
        raise MalformedError(f"rollback.to is {to!r}, not an older generation")
    if not isinstance(why, str) or not 0 < len(why.strip()) <= MOST_WHY or not why.isprintable():
        raise MalformedError(f"rollback.why is not a text of 1 to {MOST_WHY} characters")
    return Rollback(to, why)
