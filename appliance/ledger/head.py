"""A head of the audit chain. Pure."""

import hashlib
from dataclasses import dataclass

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Head:
    """The chain after ``seq`` records. In a ledger older than the chain it starts later than 0."""

    seq: int = 0
    hash: str = GENESIS

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Return the head that ``str`` wrote."""
        seq, digest = text.split(":")
        return cls(int(seq), digest)

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    def to_wire(self) -> dict[str, object]:
        """Return plain JSON data."""
        return {"seq": self.seq, "hash": self.hash}

    def after(self, record: bytes) -> "Head":
        """Return the head when ``record`` has followed."""
        linked = bytes.fromhex(self.hash) + hashlib.sha256(record).digest()
        return Head(self.seq + 1, hashlib.sha256(linked).hexdigest())
