"""One file of a web server, read from a place in it on, over links that break.

After a cut it goes on from where it was. A file that changes meanwhile is noticed as far as the
server tells; the digest of the whole is what proves it.
"""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from appliance.errors import CorruptError, PeerUnreachableError
from appliance.kit.remote import Answer, CutError, Patience, Remote, StallWatch, no_end
from appliance.kit.throttle import CHUNK
from appliance.kit.weblink import Url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PROGRESS = 1 << 20
"""So many bytes that came wipe out earlier failures."""
_FREE = 1 << 20
"""So many bytes pass without asking: what is signed, what there is and what fits can be told at any
hour, and only the bulk waits."""
_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


def open_file(remote: Remote, url: Url, offset: int = 0) -> BinaryIO:
    """Return a file for one reading from ``offset`` on; reading may raise the same.

    Raises:
        NotFoundError, PeerUnreachableError: as ``Remote.get``.
        CorruptError: it became another file while it was read.
    """
    file = _RemoteFile(remote, url, offset)
    file.begin()
    return io.BufferedReader(file)


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says to tell one state of a file from the next; None is "not said"."""

    etag: str | None
    modified: str | None
    total: int | None

    @classmethod
    def of(cls, answer: "Answer") -> "Version":
        total = answer.length
        if answer.status == 206:
            found = _RANGE.fullmatch(answer.header("Content-Range") or "")
            total = int(found[3]) if found is not None and found[3] != "*" else None
        return cls(answer.header("ETag"), answer.header("Last-Modified"), total)

    def differs(self, other: "Version") -> bool:
        """Whether these can not be of the same state."""
        if None not in (self.total, other.total) and self.total != other.total:
            return True
        if None not in (self.etag, other.etag):
            return self.etag != other.etag
        return None not in (self.modified, other.modified) and self.modified != other.modified

    @property
    def condition(self) -> str | None:
        """The value of an If-Range header, which takes strong ones only."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None


class _RemoteFile(io.RawIOBase):
    """One file from a place in it on; goes on after a cut from where it was."""

    def __init__(self, remote: Remote, url: Url, offset: int) -> None:
        self._remote = remote
        self._url = url
        self._at = offset
        self._answer: Answer | None = None
        self._version: Version | None = None
        self._gate_at = offset + _FREE
        self._patience = Patience(remote, url)
        self._came = 0

    def readable(self) -> bool:
        return True

    def begin(self) -> None:
        """Ask for the file, so that one that is not there is found at once."""
        self._patiently(0)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._patiently(min(len(view), self._remote.pace.throttle.piece))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._hang_up()
        super().close()

    def _patiently(self, count: int) -> bytes:
        while True:
            try:
                return self._some(count)
            except CutError as cut:
                self._hang_up()
                self._patience.wait(cut)

    def _some(self, count: int) -> bytes:
        if self._at >= self._gate_at:
            self._remote.pace.gate()
            self._gate_at = (self._at // CHUNK + 1) * CHUNK
        if self._answer is None:
            self._answer = self._ask()
        if not count or self._answer.status == 416:
            return b""
        data = self._watch.read(self._answer, min(count, self._gate_at - self._at))
        self._at += len(data)
        self._came += len(data)
        if self._came >= _PROGRESS:
            self._came = 0
            self._patience.renew()
        self._remote.pace.throttle.take(len(data))
        return data

    def _ask(self) -> Answer:
        headers = {}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
            if self._version is not None and self._version.condition:
                headers["If-Range"] = self._version.condition
        self._watch = StallWatch(self._remote.link.timeout_s)
        answer = self._remote.once("GET", self._url, headers)
        try:
            if self._accept(answer):
                self._skip(answer)
        except BaseException:
            answer.close()
            raise
        return answer

    def _accept(self, answer: Answer) -> bool:
        """Take an answer for what it is; whether it begins before where we are."""
        found = Version.of(answer)
        if answer.status == 416:  # nothing from here on: the end, unless there was more before
            if self._version is not None and self._version.total != self._at:
                raise self._changed()
            return False
        if self._version is not None and self._version.differs(found):
            raise self._changed()
        if not answer.has_an_end:
            raise no_end(self._url)
        self._version = self._version or found
        if answer.status != 206:
            return bool(self._at)
        span = _RANGE.fullmatch(answer.header("Content-Range") or "")
        if span is None or int(span[1]) != self._at:
            raise PeerUnreachableError(f"{self._url}: the server sent another part than was asked")
        return False

    def _skip(self, answer: Answer) -> None:
        """Read past what is here already: this server knows no ranges."""
        left = self._at
        while left:
            piece = self._watch.read(answer, min(left, self._remote.pace.throttle.piece))
            if not piece:
                return
            self._remote.pace.throttle.take(len(piece))
            left -= len(piece)

    def _changed(self) -> CorruptError:
        return CorruptError(
            f"{self._url} became another file while it was read", hint="import it again"
        )

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
