"""A look at a blob's bytes tells the blob from anything else, and leaves no trace in memory."""

import ctypes
import errno
import hashlib
import mmap
import os
from pathlib import Path

import pytest

from appliance.cache import verify
from appliance.cache.verify import Verdict, finish
from appliance.core.ids import Digest
from appliance.errors import StateUnusableError

MIB = 1 << 20


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "PIECE", 1000)


def blob(folder: Path, data: bytes) -> tuple[Path, Digest]:
    path = folder / "blob"
    path.write_bytes(data)
    return path, Digest("sha256:" + hashlib.sha256(data).hexdigest())


DATA = bytes(range(256)) * 17


@pytest.mark.parametrize("data", [b"", b"x", DATA, bytes(1000), bytes(2000)])
def test_a_blob_is_known_by_its_name_then_by_its_index(tmp_path: Path, data: bytes) -> None:
    path, digest = blob(tmp_path, data)
    found = finish(verify.verify(path, digest))
    assert found.blake3 is not None
    assert len(found.blake3) == 32 * max(1, -(-len(data) // 1000))
    assert finish(verify.verify(path, digest, found.blake3)) == found


@pytest.mark.parametrize("at", [0, 999, 1000, 4351])
def test_one_flipped_bit_is_seen_either_way(tmp_path: Path, at: int) -> None:
    path, digest = blob(tmp_path, DATA)
    index = finish(verify.verify(path, digest)).blake3
    other = bytearray(DATA)
    other[at] ^= 1
    path.write_bytes(other)
    for known in (None, index):
        found = finish(verify.verify(path, digest, known))
        assert (found.blake3, found.is_there) == (None, True)
        assert found.why.startswith("its bytes hash to sha256:")


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:1000], DATA + b"x", b""])
def test_another_length_is_seen_either_way(tmp_path: Path, data: bytes) -> None:
    path, digest = blob(tmp_path, DATA)
    index = finish(verify.verify(path, digest)).blake3
    path.write_bytes(data)
    for known in (None, index):
        assert finish(verify.verify(path, digest, known)).blake3 is None


def test_an_index_alone_never_condemns(tmp_path: Path) -> None:
    path, digest = blob(tmp_path, DATA)
    right = finish(verify.verify(path, digest))
    for wrong in (bytes(32 * 5), bytes(31)):
        assert finish(verify.verify(path, digest, wrong)) == right


def test_a_later_look_goes_on_where_an_earlier_one_ended(tmp_path: Path) -> None:
    path, digest = blob(tmp_path, DATA)
    index = finish(verify.verify(path, digest)).blake3
    assert sum(verify.verify(path, digest, index, 3)) == len(DATA) - 3000
    path.write_bytes(b"y" + DATA[1:])
    assert finish(verify.verify(path, digest, index, 1)).blake3 == index
    assert finish(verify.verify(path, digest, index, 0)).blake3 is None


def test_what_is_gone_is_not_damaged(tmp_path: Path) -> None:
    _, digest = blob(tmp_path, DATA)
    found = finish(verify.verify(tmp_path / "other", digest))
    assert found == Verdict(None, "it is not in the store any more", is_there=False)


def test_what_was_brought_again_meanwhile_is_looked_at_instead(tmp_path: Path) -> None:
    path, digest = blob(tmp_path, DATA)
    path.write_bytes(b"y" + DATA[1:])
    verifying = verify.verify(path, digest)
    next(verifying)
    (tmp_path / "again").write_bytes(DATA)
    (tmp_path / "again").rename(path)
    assert finish(verifying).blake3 is not None
    path.write_bytes(b"y" + DATA[1:])
    verifying = verify.verify(path, digest)
    next(verifying)
    path.unlink()
    assert not finish(verifying).is_there, "another look put it away"


def failing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", fail)


def test_a_disk_that_will_not_read_it_damaged_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = blob(tmp_path, DATA)
    failing(monkeypatch, errno.EIO)
    found = finish(verify.verify(path, digest))
    assert found.why == "it cannot be read: Input/output error"
    assert found.is_there


def test_a_fault_of_ours_condemns_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = blob(tmp_path, DATA)
    failing(monkeypatch, errno.ENOMEM)
    with pytest.raises(StateUnusableError, match="cannot be read: Cannot allocate memory"):
        finish(verify.verify(path, digest))


def test_the_page_cache_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What engines have there stays, and what they have not is not brought in."""
    monkeypatch.setattr(verify, "PIECE", 64 * MIB)
    path, digest = blob(tmp_path, os.urandom(8 * MIB))
    os.sync()  # a page that is not on the disk yet cannot be dropped
    drop(path)
    if resident_share(path) > 0.01:
        pytest.skip("this file system keeps its files in memory")
    index = finish(verify.verify(path, digest)).blake3
    assert resident_share(path) < 0.01, "it was cold and still is"
    path.read_bytes()
    finish(verify.verify(path, digest, index))
    assert resident_share(path) == 1.0, "it was warm and still is"


def drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def resident_share(path: Path) -> float:
    """Return how much of a file is in the page cache; looking does not change it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    address = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    os.close(descriptor)
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    found = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages)
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    assert found == 0
    return sum(page & 1 for page in pages) / len(pages)
