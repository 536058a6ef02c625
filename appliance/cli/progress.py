"""Progress: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from appliance.core.quantity import format_bytes, format_duration

_WIDTH = 24
_EVERY_S = 0.1
_PLAIN_EVERY_S = 10.0


class ProgressLine:
    """One line about one thing that goes on, on standard error."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._last = 0.0
        self._doing = ""
        self._drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._drawn:
            print(file=sys.stderr)

    def follow(self, answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Show the progress that an answer tells of; return the last, which is its result."""
        answer: dict[str, Any] = {}
        for answer in answers:
            if "progress" in answer:
                self.update(*answer["progress"].values())
        return answer

    def update(self, doing: str, done: int, total: int) -> None:
        """Say how far it is; calls that come too quickly are passed over."""
        now = time.monotonic()
        new = doing != self._doing
        if new:
            self._doing, self._began = doing, now
        every = _EVERY_S if self._terminal else _PLAIN_EVERY_S
        if self._quiet or not (new or now - self._last >= every or (total and done == total)):
            return
        self._last = now
        text = render(doing, done, total, now - self._began)
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._drawn = True
        else:
            print(text, file=sys.stderr)


def render(doing: str, done: int, total: int, elapsed_s: float) -> str:
    """Return the line's text."""
    if not total:
        return doing
    filled = min(_WIDTH, _WIDTH * done // total)
    text = f"{doing} [{'#' * filled}{'.' * (_WIDTH - filled)}] {done * 100 // total:3d} %"
    text += f"  {format_bytes(done)} of {format_bytes(total)}"
    if elapsed_s > 0 and done:
        rate = done / elapsed_s
        text += f"  {format_bytes(int(rate))}/s"
        if done < total:
            text += f"  {format_duration((total - done) / rate)} left"
    return text
