"""How fast bytes may come, and whether more may come at all."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

CHUNK = 64 << 20
"""Between two of these, by their place in the file, a transfer asks whether it may go on."""
_LARGEST_PIECE = 256 << 10
_SMALLEST_PIECE = 4 << 10
_BURST_S = 0.25


class Throttle:
    """A token bucket that holds a quarter of a second; several threads may take from it.

    Bytes are paid for after they came, so the one who takes waits until the debt is gone. The
    sender is slowed by its own full buffers.
    """

    def __init__(
        self,
        bytes_per_second: int | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Without a rate nothing is ever held back."""
        self._rate = bytes_per_second
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until = monotonic()

    @property
    def piece(self) -> int:
        """How many bytes to read at once, so that a slow transfer flows instead of jerking."""
        if self._rate is None:
            return _LARGEST_PIECE
        return max(_SMALLEST_PIECE, min(_LARGEST_PIECE, self._rate // 8))

    def take(self, count: int) -> None:
        """Return when ``count`` more bytes are within the rate."""
        if self._rate is None:
            return
        with self._lock:
            now = self._monotonic()
            self._paid_until = max(self._paid_until, now - _BURST_S) + count / self._rate
            debt_s = self._paid_until - now
        if debt_s > 0:
            self._sleep(debt_s)


def _open() -> None:
    """Let everything through."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a transfer keeps to."""

    throttle: Throttle = field(default_factory=Throttle)
    gate: Callable[[], None] = _open
    """Called before each chunk; raises when no more may come now."""
