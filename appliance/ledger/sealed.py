"""Sealed batches that wait for the hub, many of them in one piece: what a stick carries."""

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream

_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Pack:
    """Consecutive batches of one stream, oldest first, each one line; ``upto`` is the last number.

    ``records`` counts numbers.
    """

    first: int
    upto: int
    batches: int
    data: bytes

    @property
    def records(self) -> int:
        """How many numbers they hold."""
        return self.upto - self.first + 1


def packs(ledger: Ledger, stream: Stream, most_bytes: int) -> Iterator[Pack]:
    """Yield all batches of a stream that nobody acknowledged, in packs of some size.

    Args:
        ledger: The ledger; it may be written to meanwhile.
        stream: The stream.
        most_bytes: A pack ends before it grows beyond this; one batch alone may.
    """
    lines: list[bytes] = []
    first = upto = size = 0
    for number, last, envelope in _batches(ledger, stream):
        if lines and size + len(envelope) + 1 > most_bytes:
            yield Pack(first, upto, len(lines), b"".join(lines))
            lines, size = [], 0
        first = first if lines else number
        lines.append(envelope + b"\n")
        size, upto = size + len(envelope) + 1, last
    if lines:
        yield Pack(first, upto, len(lines), b"".join(lines))


def _batches(ledger: Ledger, stream: Stream) -> Iterator[tuple[int, int, bytes]]:
    after = 0
    while True:
        rows = ledger.read(
            lambda db: db.execute(
                "SELECT first, first + count - 1, envelope FROM batches"
                " WHERE stream = ? AND first > ? ORDER BY first LIMIT ?",
                (stream, after, _AT_ONCE),  # noqa: B023 - called at once
            ).fetchall()
        )
        if not rows:
            return
        for first, upto, envelope in rows:
            yield int(first), int(upto), bytes(envelope)
        after = int(rows[-1][0])
