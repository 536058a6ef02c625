"""What is rebuilt is taken in like any blob; what is lacking is said before anything is copied."""

import io
import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from appliance.bundle.format.delta import Recipe, Sized, Step
from appliance.bundle.format.rebuild import damaged, left_out, made_against, rebuilt, require_bases
from appliance.cache.blobs import BlobStore
from appliance.core.ids import Digest
from appliance.errors import CorruptError, IncompleteError
from tests.helpers.deltas import delta_of, rebuild, sized
from tests.helpers.gguf import llama_of
from tests.helpers.signing import flip

OLD = llama_of({"q": bytes(9000), "v": b"v" * 9000, "o": b"o" * 9000})
NEW = llama_of({"q": bytes(9000), "v": b"w" * 9000, "o": b"o" * 9000})
RECIPE, FRESH = delta_of(NEW, OLD)
NOTE = "receipt 7 of box-1"


class Worn(io.BytesIO):
    """A file on a bad block."""

    def read(self, _size: int | None = -1, /) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    made = BlobStore(tmp_path / "store", tmp_path / "incoming")
    made.init()
    made.add(OLD)
    return made


def opening(fresh: bytes) -> "partial[nullcontext[BinaryIO]]":
    return partial(_opened, fresh)


def _opened(fresh: bytes, offset: int) -> nullcontext[BinaryIO]:
    return nullcontext(io.BytesIO(fresh[offset:]))


def take(store: BlobStore, recipe: Recipe = RECIPE, fresh: bytes = FRESH) -> None:
    bases = {base.digest: store.path(base.digest) for base in recipe.bases}
    output = sized(NEW)
    store.fetch(partial(rebuilt, recipe, bases, opening(fresh)), output.digest, output.size)


def test_a_store_takes_it_in_like_any_blob(store: BlobStore) -> None:
    take(store)
    store.admit([sized(NEW).digest])
    assert store.path(sized(NEW).digest).read_bytes() == NEW


def test_an_interrupted_one_is_resumed_with_what_is_left_of_the_new(store: BlobStore) -> None:
    old = llama_of({"q": bytes(9 << 20), "v": b"v" * 9000})
    new = llama_of({"q": bytes(9 << 20), "v": b"w" * 9000})
    recipe, fresh = delta_of(new, old)
    bases = {store.add(old): store.path(sized(old).digest)}

    def take(fresh: bytes) -> None:
        store.fetch(partial(rebuilt, recipe, bases, opening(fresh)), sized(new).digest, len(new))

    with pytest.raises(IncompleteError, match="ends too early"):
        take(fresh[:-100])
    assert 0 < store.kept(sized(new).digest) < len(new)
    take(fresh)
    assert store.kept(sized(new).digest) == len(new)


def test_other_new_bytes_are_corrupt_and_accuse_no_base(store: BlobStore) -> None:
    with pytest.raises(CorruptError, match="other bytes than those that were signed"):
        take(store, fresh=bytes(len(FRESH)))
    assert store.kept(sized(NEW).digest) == 0
    assert damaged({sized(OLD).digest: store.path(sized(OLD).digest)}) == []


def test_a_damaged_base_is_found_by_its_own_digest(store: BlobStore, tmp_path: Path) -> None:
    base = sized(OLD).digest
    flip(store.path(base), at=len(OLD) - 1)
    with pytest.raises(CorruptError):
        take(store)
    gone = tmp_path / "gone"
    (link := tmp_path / "link").symlink_to(store.path(base))
    paths = {base: store.path(base), Digest("sha256:1"): gone, Digest("sha256:2"): link}
    assert damaged(paths) == list(paths)


def test_a_base_of_another_length_is_not_read(store: BlobStore) -> None:
    base = Sized(sized(OLD).digest, len(OLD) + 1)
    recipe = Recipe(RECIPE.output, (base,), RECIPE.steps)
    with pytest.raises(CorruptError, match="it has"):
        take(store, recipe)


def test_a_base_that_goes_or_is_a_link_is_not_read(store: BlobStore, tmp_path: Path) -> None:
    path = store.path(sized(OLD).digest)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="No such file"):
        take(store)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="symbolic links"):
        take(store)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptError, match="not a regular file"):
        take(store)


def test_a_base_that_shrinks_meanwhile_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "base"
    path.write_bytes(bytes(1000))
    base = Sized(Digest("sha256:" + "0" * 64), 1000)
    recipe = Recipe(sized(NEW), (base,), (Step(0, 0, 1000),))
    with rebuilt(recipe, {base.digest: path}, opening(b"")) as file:
        os.truncate(path, 0)
        with pytest.raises(CorruptError, match="became shorter"):
            file.read()


def test_new_bytes_that_cannot_be_read_interrupt(store: BlobStore) -> None:
    bases = {sized(OLD).digest: store.path(sized(OLD).digest)}
    with (
        rebuilt(RECIPE, bases, lambda _: nullcontext(Worn())) as file,
        pytest.raises(IncompleteError, match="Input/output error"),
    ):
        file.read()


def test_the_file_of_what_is_new_is_not_opened_when_nothing_of_it_is_wanted(tmp_path: Path) -> None:
    recipe, fresh = delta_of(OLD, OLD)
    (tmp_path / "old").write_bytes(OLD)

    def never(_offset: int) -> nullcontext[BinaryIO]:
        raise AssertionError

    with rebuilt(recipe, {sized(OLD).digest: tmp_path / "old"}, never) as file:
        assert file.read() == OLD
    assert (fresh, rebuild(RECIPE, FRESH, tmp_path, OLD, done=len(NEW))) == (b"", b"")


def test_a_base_that_is_not_here_is_named_with_what_to_bring() -> None:
    require_bases(RECIPE, lambda _: True)
    with pytest.raises(IncompleteError) as caught:
        require_bases(RECIPE, lambda _: False, NOTE)
    assert caught.value.exit_code == 23
    assert sized(OLD).digest in str(caught.value)
    assert NOTE in str(caught.value)
    assert sized(OLD).digest[:19] in str(caught.value.hint)


def test_a_blob_that_was_left_out_is_named_with_the_reason() -> None:
    found = left_out(sized(OLD).digest, NOTE)
    assert (found.exit_code, NOTE in found.what) == (23, True)
    assert "whole bundle" in str(found.hint)
    assert left_out(sized(OLD).digest, None).hint == "copy all of the bundle's folder"


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        ({}, None),
        ({"against": 1}, None),
        ({"against": {"node": "box-1", "seq": 7}}, NOTE),
        ({"against": {"node": "\x1b[2J", "seq": []}}, "receipt [] of \\x1b[2J"),
    ],
)
def test_the_hint_is_put_into_words(hint: dict[str, object], says: str | None) -> None:
    assert made_against(hint) == says


PEAK = """
import re, sys
from pathlib import Path
from appliance.bundle.format.delta import Recipe, Sized, Step
from appliance.bundle.format.rebuild import rebuilt
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
base = Sized("sha256:0", int(sys.argv[2]))
recipe = Recipe(base, (base,), (Step(0, 4096, base.size - 4096), Step(0, 0, 4096)))
before, count, buffer = peak(), 0, memoryview(bytearray(4 << 20))
with rebuilt(recipe, {base.digest: Path(sys.argv[1])}, None) as file:
    while found := file.readinto(buffer):
        count += found
assert count == base.size, count
print(peak() - before)
"""


@pytest.mark.slow
def test_rebuilding_takes_bounded_memory(tmp_path: Path) -> None:
    size = 512 << 20
    with (tmp_path / "base").open("wb") as file:
        file.truncate(size)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "base"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 32 << 10, "KiB more than before"
