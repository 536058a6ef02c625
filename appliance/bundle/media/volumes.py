"""A bundle in parts: for FAT32, whose files end at 4 GiB, and for several small sticks.

A large blob is cut into ``HEX.000``, ``HEX.001`` and so on, each of the same size but the last. The
parts lie in one folder or are spread over volumes; each volume has all the signed metadata and all
the small blobs. The hint in ``bundle.json`` that says so is unsigned: what is put together has to
hash to what was signed, as ever.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from appliance.errors import IncompleteError, InterruptedImportError, MalformedError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MOST_VOLUMES = 999
LEAST_PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Volume:
    """Which volume of how many this is, and how large parts are but for the last of a blob."""

    this: int
    of: int
    part_bytes: int

    @classmethod
    def parse(cls, hint: object) -> "Volume | None":
        """Return what ``bundle.json`` says under ``volumes``; None when it says nothing.

        Raises:
            MalformedError: it says something that makes no sense.
        """
        if hint is None:
            return None
        found: dict[str, Any] = hint if isinstance(hint, dict) else {}
        numbers = [found.get(name) for name in ("this", "of", "partBytes")]
        this, of, size = (n if isinstance(n, int) else 0 for n in numbers)
        if not 1 <= this <= of <= MOST_VOLUMES or size < LEAST_PART_BYTES:
            raise MalformedError("bundle.json says something else than which volume this is")
        return cls(this, of, size)


def part_name(name: str, number: int) -> str:
    """Return what a part of the file ``name`` is called."""
    return f"{name}.{number:03}"


class Parts(io.RawIOBase):
    """The parts of one file as one, read from an offset on."""

    def __init__(
        self, open_: Callable[[str, int], BinaryIO | None], name: str, volume: Volume, length: int
    ) -> None:
        """``open_`` opens a part from a place in it on, or returns None when it is not here."""
        self._open = open_
        self._name = name
        self._volume = volume
        self._length = length
        self._at = 0
        self._part: BinaryIO | None = None
        self._number = -1

    def readable(self) -> bool:
        return True

    def skip(self, offset: int) -> None:
        """Begin reading at ``offset``."""
        self._at = offset

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Read from the part that holds the present position.

        Raises:
            IncompleteError: that part is not on this volume.
        """
        number, inside = divmod(self._at, self._volume.part_bytes)
        if number != self._number:
            self.close_part()
            self._part = self._open(part_name(self._name, number), inside)
            self._number = number
        if self._part is None:
            if self._at >= self._length:
                return 0
            raise self._elsewhere()
        count: int = self._part.readinto(buffer)  # type: ignore[attr-defined]
        self._at += count
        return count

    def close_part(self) -> None:
        """Close the part that is open."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def close(self) -> None:
        """Close what is open; harmless when it was done."""
        self.close_part()
        super().close()

    def _elsewhere(self) -> IncompleteError:
        this, of = self._volume.this, self._volume.of
        if of == 1:
            return IncompleteError(
                f"the bundle lacks {part_name(self._name, self._number)}",
                hint="copy all of the bundle's folder",
            )
        other = f"volume {this + 1}" if this < of else "the volumes before it"
        return InterruptedImportError(
            f"this is volume {this} of {of}, and what comes next is on another; "
            "what was copied stays",
            hint=f"put in {other} and import it: it goes on from here",
        )
