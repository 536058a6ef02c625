"""A blob gets its name after its bytes were proven; what is read is a file and nothing else."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.cache.blobs import BlobStore
from appliance.cache.copying import BUFFER_BYTES
from appliance.core import wire
from appliance.core.ids import Digest
from appliance.errors import CorruptError, IncompleteError, NoSpaceError, StateUnusableError
from tests.helpers.importing import contents
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
    data = os.urandom(BUFFER_BYTES + 5)
    digest, told = Digest(digest_of(data)), list[int]()
    blobs.receive(io.BytesIO(data), digest, len(data), told.append)
    assert told == [BUFFER_BYTES, 5]
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


class Breaking(io.BytesIO):
    """A source that stops giving bytes after some."""

    def __init__(self, data: bytes, after: int) -> None:
        super().__init__(data)
        self._after = after

    def readinto(self, buffer: Any, /) -> int:
        if self.tell() >= self._after:
            raise IncompleteError("the stick was pulled")
        return super().readinto(memoryview(buffer)[: self._after - self.tell()])


def test_a_medium_that_stops_leaves_what_was_copied(blobs: BlobStore) -> None:
    """And the next try goes on from there: it asks for no byte twice."""
    data = os.urandom(3 * BUFFER_BYTES)
    digest = Digest(digest_of(data))
    with pytest.raises(IncompleteError, match="pulled"):
        blobs.receive(Breaking(data, 2 * BUFFER_BYTES), digest, len(data))
    assert blobs.kept(digest) == 2 * BUFFER_BYTES
    asked = list[int]()

    def at(offset: int) -> io.BytesIO:
        asked.append(offset)
        return io.BytesIO(data[offset:])

    told = list[int]()
    blobs.fetch(at, digest, len(data), told.append)
    assert asked == [2 * BUFFER_BYTES]
    assert sum(told) == len(data)
    blobs.admit([digest])
    assert blobs.path(digest).read_bytes() == data


@pytest.mark.parametrize("left", [b"x", DATA[:-1] + b"!", DATA + b"more", b""])
def test_a_bad_rest_of_an_earlier_try_is_not_the_mediums_fault(
    blobs: BlobStore, left: bytes
) -> None:
    (blobs.incoming / f"{DIGEST.removeprefix('sha256:')}.part").write_bytes(left)
    told = list[int]()
    blobs.receive(io.BytesIO(DATA), DIGEST, len(DATA), told.append)
    assert sum(told) == len(DATA)
    blobs.admit([DIGEST])
    assert blobs.path(DIGEST).read_bytes() == DATA


def test_a_bad_rest_does_not_save_a_bad_medium(blobs: BlobStore) -> None:
    (blobs.incoming / f"{DIGEST.removeprefix('sha256:')}.part").write_bytes(b"x")
    with pytest.raises(CorruptError, match="holds other bytes"):
        blobs.receive(io.BytesIO(b"!" * len(DATA)), DIGEST, len(DATA))
    assert list(blobs.incoming.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_was_written(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, write = os.urandom(3 * BUFFER_BYTES), os.write

    def full(descriptor: int, some: Any) -> int:
        if blobs.kept(digest) >= BUFFER_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, some)

    digest = Digest(digest_of(data))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpaceError):
        blobs.receive(io.BytesIO(data), digest, len(data))
    assert blobs.kept(digest) == BUFFER_BYTES
    monkeypatch.undo()
    blobs.receive(io.BytesIO(data), digest, len(data))


def test_what_an_earlier_try_completed_is_hashed_again_and_not_copied(blobs: BlobStore) -> None:
    blobs.receive(io.BytesIO(DATA), DIGEST, len(DATA))
    blobs.fetch(lambda offset: io.BytesIO(DATA[offset:]), DIGEST, len(DATA))
    (blobs.incoming / f"{DIGEST.removeprefix('sha256:')}.part").chmod(0o600)


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


def test_what_a_crash_left_half_written_is_no_blob(blobs: BlobStore) -> None:
    digest = blobs.add(DATA)
    (blobs.path(digest).parent / f".{blobs.path(digest).name}.7-7.new").write_bytes(DATA)
    assert blobs.all() == [digest], "a receipt that lists anything else is refused by every hub"
