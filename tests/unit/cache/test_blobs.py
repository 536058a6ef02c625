"""A blob gets its name after its bytes were proven; what is read is a file and nothing else."""

import io
import os
import socket
from pathlib import Path

import pytest

from appliance.cache.blobs import CHUNK, BlobStore, open_regular
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import CorruptError, StateUnusableError
from tests.helpers.importing import contents
from tests.helpers.media import Worn
from tests.helpers.signing import digest_of

DATA = b"weights of a model"
DIGEST = Digest(digest_of(DATA))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    made = BlobStore(tmp_path / "store", tmp_path / "incoming")
    made.init()
    return made


def test_an_empty_store_is_an_oci_layout_and_stays_as_it_is(blobs: BlobStore) -> None:
    blobs.write_index([{"digest": "x"}])
    blobs.init()
    layout = wire.loads((blobs.folder / "oci-layout").read_bytes(), what="it")
    assert layout == {"imageLayoutVersion": "1.0.0"}
    index = wire.loads((blobs.folder / "index.json").read_bytes(), what="it")
    assert (index["schemaVersion"], index["manifests"]) == (2, [{"digest": "x"}])
    assert blobs.all() == []


def test_a_blob_is_received_admitted_and_read(blobs: BlobStore) -> None:
    data = os.urandom(CHUNK + 5)
    digest, told = Digest(digest_of(data)), list[int]()
    blobs.receive(io.BytesIO(data), digest, len(data), told.append)
    assert told == [CHUNK, 5]
    assert not blobs.has(digest)
    with blobs.open_received(digest) as file:
        assert file.read() == data
    blobs.admit([digest])
    assert blobs.has(digest)
    assert blobs.all() == [digest]
    assert blobs.path(digest).stat().st_mode & 0o777 == 0o444
    with blobs.open_received(digest) as file:
        assert file.read() == data
    assert list(blobs.incoming.iterdir()) == []


def test_a_blob_survives_a_power_cut_before_it_has_its_name(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = list[str](), os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    blobs.receive(io.BytesIO(DATA), DIGEST, len(DATA))
    assert synced == [f"{DIGEST.removeprefix('sha256:')}.part"]
    blobs.admit([DIGEST])
    assert synced[1:] == ["sha256", "incoming"]


def test_an_empty_blob_is_one_too(blobs: BlobStore) -> None:
    digest = Digest(digest_of(b""))
    blobs.receive(io.BytesIO(), digest, 0)
    blobs.admit([digest])
    assert blobs.path(digest).read_bytes() == b""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (DATA[:-1], "ends 1 bytes before"),
        (b"", "ends 18 bytes before"),
        (DATA + b"!", "is longer than its signed length"),
        (DATA[:-1] + b"!", "holds other bytes"),
    ],
)
def test_other_bytes_leave_nothing(blobs: BlobStore, data: bytes, why: str) -> None:
    before = contents(blobs.folder.parent)
    with pytest.raises(CorruptError, match=why):
        blobs.receive(io.BytesIO(data), DIGEST, len(DATA))
    assert contents(blobs.folder.parent) == before


def test_at_most_one_byte_beyond_the_signed_length_is_read(blobs: BlobStore) -> None:
    source = io.BytesIO(DATA + bytes(1000))
    with pytest.raises(CorruptError):
        blobs.receive(source, DIGEST, len(DATA))
    assert source.tell() == len(DATA) + 1


def test_a_medium_that_fails_is_to_blame_and_not_our_disk(blobs: BlobStore) -> None:
    with pytest.raises(CorruptError, match="Input/output error"):
        blobs.receive(Worn(), DIGEST, len(DATA))
    assert list(blobs.incoming.iterdir()) == []


def test_what_a_killed_import_left_is_replaced_and_not_written_to(
    blobs: BlobStore, tmp_path: Path
) -> None:
    left = blobs.incoming / f"{DIGEST.removeprefix('sha256:')}.part"
    left.write_bytes(b"a part")
    left.chmod(0o444)  # only root could write to it
    (tmp_path / "same").hardlink_to(left)
    blobs.receive(io.BytesIO(DATA), DIGEST, len(DATA))
    blobs.admit([DIGEST])
    assert blobs.path(DIGEST).read_bytes() == DATA
    assert (tmp_path / "same").read_bytes() == b"a part"


def test_what_is_refused_is_discarded(blobs: BlobStore) -> None:
    blobs.receive(io.BytesIO(DATA), DIGEST, len(DATA))
    blobs.discard([DIGEST, DIGEST, Digest(digest_of(b"never came"))])
    assert list(blobs.incoming.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        blobs.open_received(DIGEST)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StateUnusableError):
        BlobStore(tmp_path / "store", tmp_path / "incoming").init()


def test_bytes_of_our_own_go_in_at_once(blobs: BlobStore) -> None:
    assert blobs.add(DATA) == DIGEST
    assert blobs.add(DATA) == DIGEST
    assert blobs.path(DIGEST).read_bytes() == DATA


def no_file(path: Path, what: str) -> None:
    """Put something that is no regular file at ``path``."""
    if what == "a link":
        path.with_name("good").write_bytes(DATA)
        path.symlink_to("good")
    elif what == "a dangling link":
        path.symlink_to("nowhere")
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    else:
        made = socket.socket(socket.AF_UNIX)
        made.bind(path.name)  # a socket's path has 108 bytes at most
        made.close()


@pytest.mark.parametrize("what", ["a link", "a dangling link", "a pipe", "a folder", "a socket"])
def test_only_a_regular_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    no_file(tmp_path / "it", what)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(CorruptError, match="it in the bundle"):
        open_regular(tmp_path / "it")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_regular_file_is_opened_and_a_missing_one_is_missing(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(DATA)
    with open_regular(tmp_path / "it") as file:
        assert file.read() == DATA
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nowhere")
    with pytest.raises(CorruptError):
        open_regular(tmp_path / "it" / "below a file")
