"""One queue for all imports of a node, whichever road they come by: first come, first served."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.kit.files import is_locked, locked


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is: bytes that are here of the bytes that were missing."""

    doing: str
    done: int = 0
    total: int = 0


@dataclass(slots=True)
class Entry:
    """One import that is under way or waits."""

    name: str
    by: str
    step: Step = field(default_factory=lambda: Step("waiting for another import to end"))


class ImportQueue:
    """The imports of one node; the file lock keeps other processes out as well."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._entries: list[Entry] = []
        self._changed = threading.Condition()

    def entries(self) -> list[Entry]:
        """Return what is under way and what waits, in order."""
        with self._changed:
            return list(self._entries)

    @contextlib.contextmanager
    def turn(self, entry: Entry) -> Iterator[None]:
        """Wait for this import's turn, and have it for as long as the block runs."""
        with self._changed:
            self._entries.append(entry)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._entries[0] is entry)
            with locked(self._lock, what="the import folder", wait=True):
                yield
        finally:
            with self._changed:
                self._entries.remove(entry)
                self._changed.notify_all()

    def is_busy(self) -> bool:
        """Whether an import would have to wait, for one of this process or of another."""
        with self._changed:
            return bool(self._entries) or is_locked(self._lock)
