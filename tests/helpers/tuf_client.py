"""python-tuf's own client over a bundle's files: a second opinion on what we sign."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from tests.helpers.signing import ISSUED


class _Files(FetcherInterface):
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._files.get(url.rsplit("/", 1)[1])
        if data is None:
            raise DownloadHTTPError("not there", 404)
        yield data


def tuf_client(folder: Path, files: Mapping[str, bytes]) -> Updater:
    """Return a refreshed client that trusts the first root; ``folder`` keeps what it believes."""
    (folder / "client").mkdir(exist_ok=True)
    client = Updater(
        str(folder / "client"),
        "https://example.org/tuf/",
        fetcher=_Files(files),
        bootstrap=files["1.root.json"],
    )
    client._trusted_set.reference_time = ISSUED
    client.refresh()
    return client
