"""Where a definition's files come from: always looked at by digest, never by name alone.

Downloads are kept by digest in a cache folder that may be emptied at any time. Each kind of source
has a module of its own.
"""

import shutil
import tempfile
import time
from pathlib import Path

from appliance.bundle.make import from_registry, huggingface, pypi
from appliance.bundle.make.fetched import Fetched, look
from appliance.core.definitions import LockedSource, Source
from appliance.core.ids import Digest
from appliance.errors import CorruptError, NotFoundError
from appliance.kit.files import make_folder, translated

_ABANDONED_S = 24 * 3600


def describe(source: Source) -> str:
    """Return a source in words."""
    if (wheel := source.pypi) is not None:
        return f"{wheel.package} {wheel.version}" + (f": {wheel.file}" if wheel.file else "")
    if (repo := source.huggingface) is not None:
        return f"huggingface {repo.repo}@{repo.revision}: {repo.file}"
    if (artefact := source.oci) is not None:
        return f"{artefact.reference}: {artefact.file}"
    return str(source.file)


class Fetcher:
    """Fetches sources into a cache folder."""

    def __init__(self, cache: Path, base: Path) -> None:
        """``base`` is the definition's folder, which local files are relative to."""
        self.cache = cache
        self.base = base

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
        make_folder(self.cache)
        for left in self.cache.glob("fetch-*"):  # of one that was killed
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
        if locked is not None and (kept := self.cache / locked.digest.replace(":", "-")).exists():
            name = locked.name or _name(source)
            found = look(kept, name, download=locked.download, revision=locked.revision)
            if found.digest == locked.digest:
                return found
            kept.unlink()
        found = self._file(source) if source.file is not None else self._download(source, locked)
        if locked is not None and found.digest != locked.digest:
            raise CorruptError(
                f"{describe(source)} is {found.digest}, the lock says {locked.digest}",
                hint="if the change is wanted, run appliance bundle lock again",
            )
        return found

    def _file(self, source: Source) -> Fetched:
        path = self.base / str(source.file)
        if not path.is_file():
            raise NotFoundError(f"the source {path} is not there")
        with translated(f"reading {path}"):
            return look(path, path.name)

    def _download(self, source: Source, locked: LockedSource | None) -> Fetched:
        revision = None if locked is None else locked.revision
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=self.cache) as temporary:
            folder = Path(temporary)
            if source.pypi is not None:
                found = pypi.fetch(source.pypi, folder)
            elif source.huggingface is not None:
                found = huggingface.fetch(source.huggingface, folder, revision)
            else:
                assert source.oci is not None
                manifest = None if revision is None else Digest(revision)
                found = from_registry.fetch(source.oci, folder, manifest)
            kept = self.cache / found.digest.replace(":", "-")
            found.path.rename(kept)
        return Fetched(kept, found.name, found.digest, found.size, found.download, found.revision)


def _name(source: Source) -> str:
    """Return what a file is called that lies in the cache under its digest."""
    if source.pypi is not None:
        return Path(source.pypi.file or source.pypi.package).name
    if source.huggingface is not None:
        return Path(source.huggingface.file).name
    return Path(source.oci.file if source.oci is not None else str(source.file)).name
