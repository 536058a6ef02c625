"""A file that was fetched, and looked at: by digest, never by name alone."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from appliance.core.ids import Digest

CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched and looked at.

    ``download`` is the digest of the package that it came in, ``revision`` the commit or manifest
    that held it.
    """

    path: Path
    name: str
    digest: Digest
    size: int
    download: Digest | None = None
    revision: str | None = None


def look(path: Path, name: str, **more: str | None) -> Fetched:
    """Return what is at ``path``, by its digest."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    download = more.get("download")
    return Fetched(
        path, name, Digest(f"sha256:{found}"), size,
        None if download is None else Digest(download), more.get("revision"),
    )  # fmt: skip
