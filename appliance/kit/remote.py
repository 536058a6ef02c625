"""Requests to web servers over links that break: made again, within bounds.

A server is not believed either. No more is read than was asked for, a redirect leads only where it
may, and one that only drips is given up. What the bytes are worth is judged by whoever reads them.
"""

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Protocol

from appliance.errors import MalformedError, NotFoundError, PeerUnreachableError, UsageError
from appliance.kit.backoff import full_jitter
from appliance.kit.throttle import Pace
from appliance.kit.weblink import Line, Link, Origin, Url

_MOST_REDIRECTS = 5
_MOST_IDLE = 2
_LEAST_BYTES_PER_S = 100
"""A server that gives less than this while it is waited for counts as silent."""
_MOST_DIGITS = 15
_TRY_LATER = {408, 425, 429}
_REDIRECTS = {301, 302, 303, 307, 308}


class CutError(Exception):
    """The link broke, or the server asked to come again later."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Auth(Protocol):
    """Who we are, for one server."""

    def headers(self, url: Url) -> Mapping[str, str]:
        """Return the headers that say so; none for a server that this is not meant for."""

    def challenged(self, remote: "Remote", url: Url, challenge: str) -> bool:
        """Take note that the server wants to know; whether asking again makes sense now."""


class Nobody:
    """Auth without a name."""

    def headers(self, _url: Url) -> Mapping[str, str]:
        return {}

    def challenged(self, _remote: "Remote", _url: Url, _challenge: str) -> bool:
        return False


class Answer:
    """An answer whose body is still to be read, on a line that is given back after that."""

    def __init__(self, remote: "Remote", url: Url, line: Line) -> None:
        self._remote = remote
        self._line = line
        self._response = line.response()
        self.url = url
        self.status = self._response.status
        self.length = self._response.length
        """Bytes of the body; None when the server does not say before its end."""
        self._left = self.length
        self._closed = False

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

    @property
    def has_an_end(self) -> bool:
        """Whether a cut can be told from the end of the body."""
        return self.length is not None or self._response.chunked

    def read_some(self, count: int) -> bytes:
        """Return up to ``count`` bytes of the body, none only at its end.

        Raises:
            CutError: it broke off.
        """
        with cuts():
            self._response.renew()
            data = self._response.read1(count if self._left is None else min(count, self._left))
        if self._left is not None:
            if not data and self._left and count:
                raise CutError(f"the link broke {self._left} bytes before the end")
            self._left -= len(data)
        if not data and count:
            self._left = 0  # chunks say by themselves where they end
        if self._left == 0:
            self.close()
        return data

    def close(self) -> None:
        """Keep the line for the next request when all of the body was read; hang up otherwise."""
        if self._closed:
            return
        self._closed = True
        self._response.close()
        if self._left == 0 and not self._response.will_close:
            self._remote.keep(self.url.origin, self._line)
        else:
            self._line.connection.close()


class Remote:
    """Servers that are asked for files. Threads may share one."""

    def __init__(
        self, link: Link, auth: Auth | None = None, pace: Pace | None = None, *, hint: str = ""
    ) -> None:
        """``hint`` says what to do when a server does not answer."""
        self.link = link
        self.pace = pace or Pace()
        self._auth = auth or Nobody()
        self._hint = hint or "check the address and the network, then try again"
        self._idle: dict[Origin, list[Line]] = {}
        self._lock = threading.Lock()

    def get(self, url: Url, cap: int, headers: Mapping[str, str] | None = None) -> bytes:
        """Return a small file, whole.

        Raises:
            NotFoundError: it is not there.
            MalformedError: it is larger than ``cap``; no more than that was read.
            PeerUnreachableError: the server does not answer, or not with the file.
        """
        patience = Patience(self, url)
        while True:
            try:
                with contextlib.closing(self.once("GET", url, headers)) as answer:
                    return self._whole(answer, url, cap)
            except CutError as cut:
                patience.wait(cut)

    def call(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Return the answer to a request that may be made twice; its body is of no interest.

        Raises:
            NotFoundError, PeerUnreachableError: as ``get``.
        """
        patience = Patience(self, url)
        while True:
            try:
                answer = self.once(method, url, headers, body)
            except CutError as cut:
                patience.wait(cut)
            else:
                answer.close()
                return answer

    def size(self, url: Url) -> int | None:
        """Return how long the server says that a file is; None when there is none.

        Raises:
            PeerUnreachableError: it does not answer, or does not say.
        """
        try:
            found = self.call("HEAD", url).header("Content-Length") or ""
        except NotFoundError:
            return None
        if not found.isdigit() or len(found) > _MOST_DIGITS:
            raise PeerUnreachableError(f"{url}: the server does not say how long it is")
        return int(found)

    def once(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Ask once; follow redirects and one challenge.

        Raises:
            CutError: no answer, or one that asks to come again later.
            NotFoundError, PeerUnreachableError: as ``get``.
        """
        begun, challenged = url, False
        for _ in range(_MOST_REDIRECTS):
            answer = self._exchange(method, url, headers or {}, body)
            location = answer.header("Location")
            challenge = answer.header("WWW-Authenticate")
            if answer.status in _REDIRECTS and method in ("GET", "HEAD") and location:
                answer.close()
                url = self.led(begun, url, location)
            elif answer.status == 401 and challenge and not challenged:
                answer.close()
                challenged = True
                if not self._auth.challenged(self, url, challenge):
                    raise self._refused(answer)
            else:
                self._check(answer)
                return answer
        raise PeerUnreachableError(f"{begun}: the server sends us from one place to the next")

    def led(self, begun: Url, url: Url, location: str) -> Url:
        """Return where a server sends us, if it may.

        Raises:
            PeerUnreachableError: it may not, or it is nowhere.
        """
        try:
            led = url.led_to(location)
        except UsageError as error:
            raise PeerUnreachableError(f"{begun}: the server sends us nowhere") from error
        if not self.link.allows(begun, led):
            raise PeerUnreachableError(
                f"{begun}: the server sends us on to {led.scheme}://{led.authority}",
                hint=f"if that is right, add {led.host} to network.also_hosts of the settings",
            )
        return led

    def keep(self, origin: Origin, line: Line) -> None:
        """Keep a line whose answer was read to its end for the next request."""
        with self._lock:
            idle = self._idle.setdefault(origin, [])
            if len(idle) < _MOST_IDLE:
                idle.append(line)
                return
        line.connection.close()

    def close(self) -> None:
        """Hang up all idle lines."""
        with self._lock:
            for idle in self._idle.values():
                while idle:
                    idle.pop().connection.close()

    def _whole(self, answer: Answer, url: Url, cap: int) -> bytes:
        too_large = MalformedError(f"{url} is larger than {cap} bytes")
        if answer.length is not None and answer.length > cap:
            raise too_large
        if not answer.has_an_end:
            raise no_end(url)
        watch, found = StallWatch(self.link.timeout_s), bytearray()
        while piece := watch.read(answer, min(self.pace.throttle.piece, cap + 1 - len(found))):
            self.pace.throttle.take(len(piece))
            found += piece
            if len(found) > cap:
                raise too_large
        return bytes(found)

    def _exchange(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        every = {"Accept-Encoding": "identity", "User-Agent": "edge-ai-appliance"}
        if body is not None:
            every["Content-Length"] = str(len(body))
        sent = {**every, **self._auth.headers(url), **headers}
        line = None if body else self._idle_line(url.origin)  # a body is not sent on the off chance
        if line is not None:
            try:
                return self._ask(line, method, url, sent, body)
            except CutError:  # it was idle for too long: that is no failure
                line.connection.close()
        return self._ask(self.link.connect(url), method, url, sent, body)

    def _ask(
        self, line: Line, method: str, url: Url, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        try:
            with cuts():
                line.request(method, url, headers, None if body is None else self._paced(body))
                return Answer(self, url, line)
        except ssl.SSLCertVerificationError as error:
            raise PeerUnreachableError(
                f"{url}: its certificate is not to be trusted: {error.verify_message}",
                hint="name the certificate of its authority in network.ca_file of the settings",
            ) from error
        except BaseException:
            line.connection.close()
            raise

    def _paced(self, body: bytes) -> Iterator[bytes]:
        """Yield a body in pieces: a time-out is for each of them, and so is the rate."""
        piece = self.pace.throttle.piece
        for at in range(0, len(body), piece):
            self.pace.throttle.take(len(body[at : at + piece]))
            yield body[at : at + piece]

    def _idle_line(self, origin: Origin) -> Line | None:
        with self._lock:
            idle = self._idle.get(origin)
            return idle.pop() if idle else None

    def _check(self, answer: Answer) -> None:
        """Raise what an answer means that is not the one asked for."""
        status = answer.status
        packed = answer.header("Content-Encoding") or "identity"
        if status < 300 and packed.lower() == "identity":
            return
        if status == 416:
            return
        answer.close()
        if status in (404, 410):
            raise NotFoundError(f"{answer.url} is not there", hint=self._hint)
        if status >= 500 or status in _TRY_LATER:
            after = answer.header("Retry-After") or ""
            wait_s = float(after) if after.isdigit() and len(after) < 6 else None
            raise CutError(f"the server answered with status {status}", wait_s)
        if status < 300:
            raise PeerUnreachableError(f"{answer.url}: the server packs it, and was asked not to")
        raise self._refused(answer)

    def _refused(self, answer: Answer) -> PeerUnreachableError:
        hint = self._hint
        if answer.status in (401, 403):
            hint = "name an account that may read there: see network.auth_file of the settings"
        return PeerUnreachableError(
            f"{answer.url}: the server answered with status {answer.status}", hint=hint
        )

    def lost(self, url: Url, why: str) -> PeerUnreachableError:
        """Return the error for a server that was given up."""
        return PeerUnreachableError(f"{url}: {why}", hint=self._hint)


class Patience:
    """How often one more try is made, and after how long; for one file."""

    def __init__(self, remote: Remote, url: Url) -> None:
        self._remote = remote
        self._url = url
        self.renew()

    def renew(self) -> None:
        """Forget earlier failures."""
        link = self._remote.link
        self._left = link.tries
        self._delays = full_jitter(link.first_retry_s, link.most_retry_s)

    def wait(self, cut: CutError) -> None:
        """Wait for the next try.

        Raises:
            PeerUnreachableError: there were enough.
        """
        self._left -= 1
        if self._left <= 0:
            raise self._remote.lost(self._url, str(cut)) from cut
        link, delay_s = self._remote.link, next(self._delays)
        if cut.wait_s is not None:
            delay_s = max(delay_s, min(cut.wait_s, link.most_retry_s))
        link.sleep(delay_s)


class StallWatch:
    """Tells a server that drips from one that is slow: the time that it was waited for counts."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._waited_s, self._came = 0.0, 0

    def read(self, answer: Answer, count: int) -> bytes:
        """Return up to ``count`` bytes.

        Raises:
            CutError: the link broke, or next to nothing came for as long as a server may be silent.
        """
        began = time.monotonic()
        data = answer.read_some(count)
        self._waited_s += time.monotonic() - began
        self._came += len(data)
        if self._waited_s >= self._timeout_s:
            if self._came < self._waited_s * _LEAST_BYTES_PER_S:
                raise CutError(f"only {self._came} bytes came in {self._waited_s:.0f} s")
            self._waited_s, self._came = 0.0, 0
        return data


@contextlib.contextmanager
def cuts() -> Iterator[None]:
    """Turn what a broken link raises into a cut; nothing that the server wrote gets into it."""
    try:
        yield
    except ssl.SSLCertVerificationError:
        raise
    except (OSError, http.client.HTTPException) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise CutError(why or _in_words(error)) from error


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"the link broke ({type(error).__name__})"


def no_end(url: Url) -> PeerUnreachableError:
    """Return the error for a body whose end looks like a cut."""
    return PeerUnreachableError(
        f"{url}: the server does not say where it ends, so a cut could not be told from its end",
        hint="use a server that sends Content-Length",
    )
