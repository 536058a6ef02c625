"""A bundle's files are read as from an untrusted medium."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.media.reader import BundleReader
from appliance.core.ids import Digest
from appliance.errors import (
    CorruptError,
    IncompleteError,
    InterruptedImportError,
    MalformedError,
    NotFoundError,
)
from appliance.trust.workflow import CAPS
from tests.helpers.media import wear
from tests.helpers.signing import digest_of

DATA = b"a small document"
DIGEST = Digest(digest_of(DATA))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "bundle"
    (made / "tuf").mkdir(parents=True)
    (made / "blobs" / "sha256").mkdir(parents=True)
    for name in ("timestamp", "1.root", "2.root", "9.snapshot", "10.snapshot", "3.targets"):
        (made / "tuf" / f"{name}.json").write_text(name)
    (made / "blobs" / "sha256" / DIGEST.removeprefix("sha256:")).write_bytes(DATA)
    (made / "bundle.json").write_text('{"name":"demo","version":"1.0.0"}')
    return made


def test_it_says_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no bundle at"):
        BundleReader(FolderMedium(tmp_path / "nowhere"))
    with pytest.raises(IncompleteError, match="holds no signed list"):
        BundleReader(FolderMedium(tmp_path))


def test_a_root_that_is_not_there_is_none(folder: Path) -> None:
    reader = BundleReader(FolderMedium(folder))
    assert [reader.root(version) for version in (1, 2, 3)] == [b"1.root", b"2.root", None]


@pytest.mark.parametrize("role", ["timestamp", "10.snapshot", "3.targets", "2.root"])
def test_no_role_is_read_beyond_its_cap(folder: Path, role: str) -> None:
    cap = CAPS[role.rpartition(".")[2]]

    def read(reader: BundleReader) -> object:
        return reader.root(2) if role == "2.root" else reader.metadata(f"{role}.json", cap)

    os.truncate(folder / "tuf" / f"{role}.json", cap)
    assert read(BundleReader(FolderMedium(folder)))
    os.truncate(folder / "tuf" / f"{role}.json", cap + 1)
    with pytest.raises(MalformedError, match=f"is larger than {cap} bytes"):
        read(BundleReader(FolderMedium(folder)))


def test_the_hint_names_a_release(folder: Path) -> None:
    assert BundleReader(FolderMedium(folder)).release() == ("demo", "1.0.0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name":"demo"}',
        '{"name":1,"version":"1"}',
        '{"name":"demo","version":"1/../2"}',
        '{"name":"../demo","version":"1"}',
        '{"name":"\\u001b[2J","version":"1"}',
        '{"name":"demo","version":"\\ud800"}',
        '{"name":"demo","version":"1\\n"}',
        f'{{"name":"{"a" * 1000}","version":"1"}}',
        f'{{"name":"demo","version":"{"1" * 1000}"}}',
        " " * ((1 << 20) + 1),
    ],
)
def test_a_hint_that_names_none_is_malformed(folder: Path, text: str) -> None:
    """It is unsigned, and what it says ends up on a screen and in the audit stream."""
    (folder / "bundle.json").write_text(text)
    with pytest.raises(MalformedError) as caught:
        BundleReader(FolderMedium(folder)).release()
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


def test_a_document_is_the_signed_one(folder: Path) -> None:
    reader = BundleReader(FolderMedium(folder))
    assert reader.document(DIGEST, len(DATA), 100) == DATA
    with pytest.raises(MalformedError, match="more than 15"):
        reader.document(DIGEST, len(DATA), 15)
    with pytest.raises(CorruptError):
        reader.document(DIGEST, len(DATA) - 2, 100)
    with pytest.raises(IncompleteError, match="the bundle lacks blobs/sha256/"):
        reader.document(Digest("sha256:" + "0" * 64), 1, 100)


def test_a_folder_that_went_away_interrupts(folder: Path) -> None:
    """Whoever pulled the stick puts it back; a bundle that lacks a file must be made again."""
    reader = BundleReader(FolderMedium(folder))
    folder.rename(folder.with_name("pulled"))
    with pytest.raises(InterruptedImportError, match="cannot be read: No such file"):
        reader.document(DIGEST, len(DATA), 100)


@pytest.mark.parametrize(
    "read",
    [
        lambda reader: reader.metadata("timestamp.json", 100),
        BundleReader.release,
        lambda reader: reader.root(2),
        lambda reader: reader.document(DIGEST, len(DATA), 100),
    ],
)
def test_a_medium_that_fails_interrupts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[BundleReader], object]
) -> None:
    reader = BundleReader(FolderMedium(folder))
    wear(monkeypatch)
    with pytest.raises(IncompleteError, match="Input/output error"):
        read(reader)
