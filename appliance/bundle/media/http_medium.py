"""A bundle's folder on a web server, read over links that break.

Nothing needs to be listed: every file's name follows from signed metadata. The server is believed
no more than a stick: lengths and digests are judged by whoever reads.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from appliance.errors import (
    IncompleteError,
    InterruptedImportError,
    MalformedError,
    NotFoundError,
    PeerUnreachableError,
)
from appliance.kit import transfer
from appliance.kit.remote import Nobody, Remote
from appliance.kit.throttle import Pace
from appliance.kit.weblink import Link, Login, Url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import WriteableBuffer

_HINT = "import it again when the link is better: it goes on from here"


class Account(Nobody):
    """A name and password for one server; sent only where nobody on the way can read them."""

    def __init__(self, url: Url, login: Login) -> None:
        self._origin = url.origin
        self._login = login

    def headers(self, url: Url) -> "Mapping[str, str]":
        if url.origin != self._origin or not url.keeps_secrets:
            return {}
        return {"Authorization": self._login.header()}


class HttpMedium:
    """A folder below one URL; any server of plain files will do. See ``Medium``."""

    def __init__(
        self,
        url: Url,
        link: Link | None = None,
        pace: Pace | None = None,
        login: Login | None = None,
    ) -> None:
        """``login`` is used when the URL has none of its own."""
        login = url.login or login
        account = None if login is None else Account(url, login)
        self.name = str(url)
        self._url = url
        self._remote = Remote(link or Link(), account, pace)

    def reach(self) -> None:
        """Find out whether there is a bundle, so that a wrong address is told from a bad link.

        Raises:
            NotFoundError: there is none.
            PeerUnreachableError: nobody answers, or not us.
        """
        if self._remote.size(self._url.below("tuf/timestamp.json")) is None:
            raise NotFoundError(
                f"there is no bundle at {self.name}", hint="name the folder with bundle.json in it"
            )

    def read(self, path: str, cap: int) -> bytes:
        """Return a small file, whole; see ``Medium``."""
        with interrupting(path):
            return self._remote.get(self._url.below(path), cap)

    def open(self, path: str, offset: int = 0) -> BinaryIO:
        """Open a file; see ``Medium``."""
        return opened(path, lambda: transfer.open_file(self._remote, self._url.below(path), offset))

    def size(self, path: str) -> int | None:
        """Return the size that the server claims; see ``Medium``.

        Raises:
            IncompleteError: it does not answer; that must not pass for "there is none".
        """
        with interrupting(path):
            return self._remote.size(self._url.below(path))

    def close(self) -> None:
        """Hang up."""
        self._remote.close()


@contextlib.contextmanager
def interrupting(path: str) -> Iterator[None]:
    """Turn what servers and links do into what a medium may raise."""
    try:
        yield
    except NotFoundError as error:
        raise IncompleteError(
            f"the bundle lacks {path}", hint="ask whoever put it there"
        ) from error
    except PeerUnreachableError as error:
        raise InterruptedImportError(error.what, hint=_HINT) from error
    except MalformedError as error:
        raise MalformedError(f"{path} in the bundle: {error.what}") from error


def opened(path: str, open_it: Callable[[], BinaryIO]) -> BinaryIO:
    """Return a file that interrupts, instead of raising what its link raises."""
    with interrupting(path):
        return io.BufferedReader(_Interrupting(open_it(), path))


class _Interrupting(io.RawIOBase):
    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        with interrupting(self._path):
            return int(self._file.readinto1(buffer))  # type: ignore[attr-defined]

    def close(self) -> None:
        self._file.close()
        super().close()
