"""Marks of demand: how the gateway says that somebody wants a model, now.

A mark is a small file for each model, replaced whole. Its name is a hash, since a model's name may
be anything; what counts is inside. ``waiting`` says that a request waits because nobody serves the
model: that wakes the controller. Else it is in use, which a usage fact says only at the end of a
request, and only once: a mark stays for a controller that starts anew.
"""

import datetime
import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from appliance.core import wire
from appliance.errors import MalformedError

MOST_BYTES = 8 << 10
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """One model, and when it was wanted: UTC in RFC 3339."""

    model: str
    at: str
    waiting: bool

    def dump(self) -> bytes:
        """Return the file's content."""
        return wire.dumps({"v": _VERSION, **asdict(self)})

    @classmethod
    def load(cls, data: bytes) -> "Mark":
        """Return the mark in a file's content.

        Raises:
            MalformedError: not a mark.
        """
        found = wire.loads(data, what="a mark of demand")
        fields: list[Any] = [found.get(name) for name in ("v", "model", "at", "waiting")]
        if [type(field) for field in fields] != [int, str, str, bool] or fields[0] != _VERSION:
            raise MalformedError("a mark of demand does not say which model, or when")
        return cls(*fields[1:])


@dataclass(frozen=True, slots=True)
class Demand:
    """When a model was wanted last.

    ``waiting_since`` and ``waited_at``: when requests last began to wait for it, and did so last.
    """

    at: datetime.datetime
    waiting_since: datetime.datetime | None = None
    waited_at: datetime.datetime | None = None


def file_name(model: str) -> str:
    """Return the name of a model's mark: the same for the same model, and safe for any."""
    return hashlib.sha256(model.encode()).hexdigest()[:32]
