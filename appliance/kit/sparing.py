"""Noting what was refused, but sparingly: whoever can offer may not fill the disk by it."""

from collections import deque

_MOST = 20
_WINDOW_S = 3600.0
_LONGEST = 300
"""So many different reasons an hour, so much of each."""

_MOST_A_DAY = 60
_DAY_S = 24 * 3600.0
"""At half a kilobyte a record, a broker that lies for a year fills about ten megabytes."""


class Sparing:
    """Says which refusals are worth a record."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, str]] = deque()
        self._today: deque[float] = deque()

    def why(self, reason: str, now: float) -> str | None:
        """Return the reason, cut to length, or None when it was noted or too much was.

        ``now`` is monotonic.
        """
        why = reason[:_LONGEST]
        while self._noted and now - self._noted[0][0] > _WINDOW_S:
            self._noted.popleft()
        while self._today and now - self._today[0] > _DAY_S:
            self._today.popleft()
        if len(self._noted) >= _MOST or len(self._today) >= _MOST_A_DAY:
            return None
        if why in {text for _, text in self._noted}:
            return None
        self._noted.append((now, why))
        self._today.append(now)
        return why
