"""A bundle's files, read as from an untrusted medium: capped, and never through a link."""

import functools
import hashlib
import re
from typing import Any, BinaryIO, cast

from appliance.bundle.format import rebuild
from appliance.bundle.media.medium import Medium, read_at_most
from appliance.bundle.media.volumes import Parts, Volume
from appliance.core import wire
from appliance.core.ids import Digest, hex_of
from appliance.errors import CorruptError, IncompleteError, MalformedError
from appliance.trust.workflow import CAPS

_MAX_HINT_BYTES = 1 << 20
_WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")


class BundleReader:
    """One bundle on a medium."""

    def __init__(self, medium: Medium) -> None:
        """Look at a bundle without believing it.

        Raises:
            IncompleteError: it holds no signed metadata.
        """
        self.medium = medium
        if medium.size("tuf/timestamp.json") is None:
            raise IncompleteError(
                f"{medium.name} holds no signed list (tuf/timestamp.json)",
                hint="name the folder that has bundle.json in it, and copy all of it; a bundle "
                "that not enough people have signed has none yet",
            )

    def root(self, version: int) -> bytes | None:
        """Return the root that claims this version, if there is one."""
        name = f"tuf/{version}.root.json"
        if self.medium.size(name) is None:
            return None
        return self.medium.read(name, CAPS["root"])

    def metadata(self, name: str, cap: int) -> bytes:
        """Step 1: return one file of signed metadata, such as ``7.snapshot.json``.

        Raises:
            IncompleteError: it is not there.
        """
        return self.medium.read(f"tuf/{name}", cap)

    def release(self) -> tuple[str, str]:
        """Return the name and version that the unsigned hint claims; only to look them up.

        Raises:
            MalformedError: it names none. Other text of a stick never gets onto a screen.
        """
        name, version = self._hint.get("name"), self._hint.get("version")
        if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in (name, version)):
            raise MalformedError("bundle.json names no bundle and version")
        return str(name), str(version)

    @functools.cached_property
    def _hint(self) -> dict[str, Any]:
        return wire.loads(self.medium.read("bundle.json", _MAX_HINT_BYTES), what="bundle.json")

    def document(self, digest: Digest, length: int, cap: int) -> bytes:
        """Return a small blob whose bytes are the signed ones.

        Raises:
            IncompleteError, CorruptError: not there, or other bytes.
            MalformedError: signed as larger than ``cap``.
        """
        if length > cap:
            raise MalformedError(f"{digest} is signed with {length} bytes, more than {cap}")
        with self.open(blob_name(digest)) as file:
            data = read_at_most(file, length + 1)
        if hashlib.sha256(data).hexdigest() != hex_of(digest):
            raise CorruptError(
                f"{digest} in the bundle holds other bytes than those that were signed",
                hint="copy the bundle again, or ask for another",
            )
        return data

    @property
    def volume(self) -> Volume | None:
        """Which volume this is, when the bundle is in parts."""
        return Volume.parse(self._hint.get("volumes"))

    @property
    def against(self) -> str | None:
        """Which receipt the bundle was made against, in words, by its unsigned hint."""
        return rebuild.made_against(self._hint)

    def size(self, name: str) -> int | None:
        """Return the size of a file that lies here in one piece, as the medium claims it."""
        return self.medium.size(name)

    def has(self, name: str) -> bool:
        """Whether a file is here in one piece, or may be here or elsewhere in parts."""
        return self.medium.size(name) is not None or self.volume is not None

    def open(self, name: str, offset: int = 0, length: int = 0) -> BinaryIO:
        """Open a file for one reading from ``offset`` on, in one piece or in parts.

        Args:
            name: Its path in the bundle.
            offset: Where to begin.
            length: How long it must be; in parts, nothing is looked for beyond that.

        Raises:
            IncompleteError: it is not in the bundle, or not on this volume.
        """
        volume = self.volume
        if volume is None or self.medium.size(name) is not None:
            return self.medium.open(name, offset)
        parts = Parts(self._open_part, name, volume, length)
        parts.skip(offset)
        return cast("BinaryIO", parts)

    def _open_part(self, name: str, offset: int) -> BinaryIO | None:
        return None if self.medium.size(name) is None else self.medium.open(name, offset)


def blob_name(digest: Digest) -> str:
    """Return where a blob lies in a bundle."""
    return f"blobs/sha256/{hex_of(digest)}"
