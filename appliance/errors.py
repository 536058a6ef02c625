"""Errors as people meet them: what happened, why, and what to do next.

Families follow what the caller can do about it (fix the input, retry, distrust the bundle), not
which module raised. Each has a stable ``code`` and the exit status that `TRUST.md` assigns to it;
both are part of the interface. Only ``cli/main.py`` prints an error, daemons turn it into a
Condition, and the local API carries it as JSON (``to_wire`` and ``from_wire``).
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class ApplianceError(Exception):
    """The root of all errors that this project raises on purpose.

    Args:
        what: What happened and why, in one sentence, without a trailing full stop.
        hint: What to do next, when we know.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def to_wire(self) -> dict[str, Any]:
        """Return the error as the JSON that crosses the local API."""
        return {"code": self.code, "exit": self.exit_code, "what": self.what, "hint": self.hint}


class UsageError(ApplianceError):
    """The command line or a request asks for something that makes no sense."""

    code = "usage"
    exit_code = 2


class BadDocumentError(ApplianceError):
    """A document does not say what its kind allows; the text names file, line and field."""

    code = "bad-document"
    exit_code = 3


class AddressBusyError(ApplianceError):
    """Another program already listens where we should."""

    code = "address-busy"
    exit_code = 4


class EngineError(ApplianceError):
    """An engine is not installed, or does not come up."""

    code = "engine"
    exit_code = 5


class StateUnusableError(ApplianceError):
    """The state folder cannot be read or written, or is not one of ours."""

    code = "state-unusable"
    exit_code = 6


class PeerUnreachableError(ApplianceError):
    """Nobody answers at the other end; trying again later may help."""

    code = "peer-unreachable"
    exit_code = 7


class LockedError(ApplianceError):
    """Another process holds the lock that this action needs."""

    code = "locked"
    exit_code = 8


class NotFoundError(ApplianceError):
    """What was named does not exist."""

    code = "not-found"
    exit_code = 9


class ForbiddenError(ApplianceError):
    """Whoever we ask, an API server or a socket, knows us or does not, and either way says no."""

    code = "forbidden"
    exit_code = 10


class ConflictError(ApplianceError):
    """Somebody else changed or owns what we wanted to write; read again before trying again.

    ``fields`` are the paths that other field managers own, when server-side apply named them.
    """

    code = "conflict"
    exit_code = 11

    def __init__(self, what: str, *, hint: str | None = None, fields: Sequence[str] = ()) -> None:
        super().__init__(what, hint=hint)
        self.fields = tuple(fields)


class RefusedError(ApplianceError):
    """Something was offered that trust rules forbid to accept. Retrying cannot help."""


class SignatureError(RefusedError):
    """Not signed, or not by the keys that may."""

    code = "signature"
    exit_code = 20


class ExpiredError(RefusedError):
    """Signed, but for a time that has passed."""

    code = "expired"
    exit_code = 21


class DowngradeError(RefusedError):
    """Older than what this node has already accepted."""

    code = "downgrade"
    exit_code = 22


class IncompleteError(RefusedError):
    """Something that the signed list names is missing."""

    code = "incomplete"
    exit_code = 23


class InterruptedImportError(IncompleteError):
    """The medium stopped giving bytes, or may give no more now. What was copied stays."""


class NoSpaceError(ApplianceError):
    """The disk has no room for this, the reserve included."""

    code = "no-space"
    exit_code = 24


class DoesNotFitError(ApplianceError):
    """The machine has not the memory or the hardware for this."""

    code = "does-not-fit"
    exit_code = 25


class CorruptError(RefusedError):
    """The bytes are not the bytes that were signed."""

    code = "corrupt"
    exit_code = 26


class MalformedError(RefusedError):
    """The bytes are signed or not, but they do not have the form they must have."""

    code = "malformed"
    exit_code = 27


class ScopeError(RefusedError):
    """Signed by a key that may not sign this, or meant for somebody else."""

    code = "scope"
    exit_code = 28


class RevokedError(RefusedError):
    """Denied by name, although it was approved once."""

    code = "revoked"
    exit_code = 29


class ReplayError(RefusedError):
    """Seen before, or not newer than what was seen before."""

    code = "replay"
    exit_code = 30


class EarlierLedgerError(ReplayError):
    """Addressed to a ledger that this node had before it was put back; no sign of an attack."""


class EquivocationError(RefusedError):
    """The same number was used for two different contents."""

    code = "equivocation"
    exit_code = 31


def families() -> list[type[ApplianceError]]:
    """Return every error family that has a code of its own, by exit status."""
    found: set[type[ApplianceError]] = set()
    todo: list[type[ApplianceError]] = [ApplianceError]
    while todo:
        family = todo.pop()
        todo.extend(family.__subclasses__())
        if "code" in vars(family):
            found.add(family)
    return sorted(found, key=lambda family: (family.exit_code, family.code))


def from_wire(wire: dict[str, Any]) -> ApplianceError:
    """Return the error that ``to_wire`` described; an unknown code becomes the root error."""
    by_code = {family.code: family for family in families()}
    family = by_code.get(str(wire.get("code")), ApplianceError)
    hint = wire.get("hint")
    return family(str(wire.get("what")), hint=None if hint is None else str(hint))
