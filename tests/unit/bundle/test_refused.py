"""Bundles that must be refused: nothing of them stays, and the exit status says why."""

import contextlib
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import header, small_llama
from tests.helpers.importing import interrupted, refused
from tests.helpers.media import wear
from tests.helpers.organisation import Node
from tests.helpers.signing import (
    ISSUED,
    LIFETIME,
    Draft,
    Signer,
    director,
    flip,
    new_key,
    target,
)

pytestmark = pytest.mark.slow


IN_MODEL = ["manifest", "config", "weights"]
"""What is read only after the metadata was committed: steps 10 and 11."""
BLOBS = [*IN_MODEL, "release", "director"]
ROLES = ["timestamp", "snapshot", "targets"]


@pytest.fixture
def draft() -> Draft:
    return Draft()


@pytest.fixture
def folder(draft: Draft, signer: Signer, tmp_path: Path) -> Path:
    return draft.write(tmp_path / "bundle", signer)


@contextlib.contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Fail what waits for a pipe's other end, instead of waiting with it."""

    def late(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [*BLOBS, "snapshot", "targets"])
def test_one_flipped_bit(box: Node, draft: Draft, folder: Path, what: str) -> None:
    flip(draft.file(folder, what))
    refused(box, folder, 26, commits=what in IN_MODEL)


def test_one_flipped_bit_in_what_only_a_signature_covers(box: Node, folder: Path) -> None:
    timestamp = folder / "tuf" / "timestamp.json"
    good = timestamp.read_bytes()
    flip(timestamp, good.index(b'"sig": "') + 20)
    refused(box, folder, 20)
    timestamp.write_bytes(good.replace(b'"version": 1', b'"version": 2'))
    refused(box, folder, 20)


@pytest.mark.parametrize("what", [*BLOBS, *ROLES])
def test_one_missing_file(box: Node, draft: Draft, folder: Path, what: str) -> None:
    draft.file(folder, what).unlink()
    refused(box, folder, 23, commits=what in IN_MODEL)


def test_missing_folders(box: Node, folder: Path, tmp_path: Path) -> None:
    (folder / "bundle.json").rename(tmp_path / "hint")
    refused(box, folder, 23)
    (tmp_path / "hint").rename(folder / "bundle.json")
    (folder / "blobs").rename(folder / "elsewhere")
    refused(box, folder, 23)
    (folder / "tuf").rename(folder / "elsewhere" / "tuf")
    refused(box, folder, 23)
    refused(box, tmp_path / "nowhere", 9)
    refused(box, folder / "bundle.json", 9)


@pytest.mark.parametrize("what", BLOBS)
@pytest.mark.parametrize("change", [lambda d: d + b"\n", lambda d: d[:-1], lambda _: b""])
def test_a_blob_of_another_length(
    box: Node, draft: Draft, folder: Path, what: str, change: Callable[[bytes], bytes]
) -> None:
    path = draft.file(folder, what)
    path.write_bytes(change(path.read_bytes()))
    refused(box, folder, 26, commits=what in IN_MODEL)


@pytest.mark.parametrize("what", [*BLOBS, *ROLES, "bundle"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_what_is_no_regular_file_is_never_followed_nor_waited_for(
    box: Node, draft: Draft, folder: Path, what: str, kind: str
) -> None:
    path = draft.file(folder, what)
    good = path.rename(folder / "good")  # what a link leads to would be the right bytes
    if kind in ("link", "dangling"):
        path.symlink_to(good if kind == "link" else "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    absent = what == "timestamp"  # then it is no bundle at all
    with deadline(10):
        refused(box, folder, 23 if absent else 26, commits=what in IN_MODEL)


@pytest.mark.parametrize("what", [*ROLES, "bundle"])
def test_oversize_metadata_is_not_read(box: Node, draft: Draft, folder: Path, what: str) -> None:
    os.truncate(draft.file(folder, what), 1 << 40)
    refused(box, folder, 27)


def test_a_document_may_be_signed_as_too_large(box: Node, signer: Signer, tmp_path: Path) -> None:
    draft = Draft()
    draft.release["padding"] = "x" * (1 << 20)
    refused(box, draft.write(tmp_path / "1", signer), 27)
    draft = Draft()
    draft.manifest["padding"] = "x" * (4 << 20)
    refused(box, draft.write(tmp_path / "2", signer), 27, commits=True)


# --- keys and time --------------------------------------------------------------------------------


def test_a_stranger_s_bundle(box: Node, folder: Path, tmp_path: Path, draft: Draft) -> None:
    stranger = draft.write(tmp_path / "stranger", Signer.new())
    refused(box, stranger, 20)
    box.importer.run(folder, "a test")
    refused(box, stranger, 20)  # and not 31: who did not sign cannot say two things
    newer = draft.write(tmp_path / "newer", Signer.new(), (9, 9, 9))
    refused(box, newer, 20)


@pytest.mark.parametrize("role", ROLES)
def test_one_role_signed_by_another_key(
    box: Node, draft: Draft, signer: Signer, tmp_path: Path, role: str
) -> None:
    refused(box, draft.write(tmp_path / "b", signer, by={role: [new_key()]}), 20)


def test_an_expired_bundle(box: Node, folder: Path, clock: ScriptedClock) -> None:
    clock.time = ISSUED + LIFETIME
    error = refused(box, folder, 21)
    assert "timestamp has expired" in str(error)
    clock.time -= ScriptedClock().time.resolution
    box.importer.run(folder, "a test")
    clock.time = ISSUED + LIFETIME
    refused(box, folder, 21)  # expiry gates imports, also one that would change nothing


# --- signed, and still not to be taken ------------------------------------------------------------


def layer(**changes: object) -> Callable[[Draft], object]:
    return lambda draft: draft.layer.update(changes)


def manifest(**changes: object) -> Callable[[Draft], object]:
    return lambda draft: draft.manifest.update(changes)


def file_name(name: object) -> Callable[[Draft], object]:
    return lambda draft: draft.layer["annotations"].update({"org.cncf.model.filepath": name})


@pytest.mark.parametrize(
    "change",
    [
        layer(urls=["https://example.com/weights"]),
        layer(urls=[]),
        layer(data="R0dVRg=="),
        lambda draft: draft.manifest["config"].update(urls=["https://example.com/config"]),
        lambda draft: draft.manifest["config"].update(data="e30="),
        lambda draft: draft.manifest["layers"].append(draft.layer),
        manifest(layers=[]),
        manifest(layers=None),
        manifest(layers=["x"]),
        manifest(manifests=[]),
        manifest(config=None),
        manifest(mediaType="application/vnd.oci.image.index.v1+json"),
        manifest(artifactType="application/vnd.oci.image.config.v1+json"),
        layer(mediaType="application/vnd.cncf.model.weight.v1.tar"),
        layer(mediaType=None),
        layer(digest="sha512:" + "ab" * 64),
        layer(digest="sha256:../../../../../etc/passwd"),
        layer(digest=None),
        layer(size=-1),
        layer(size="4"),
        layer(size=True),
        layer(size=None),
        layer(annotations=None),
        layer(annotations={}),
        *(
            file_name(name)
            for name in (
                "",
                ".",
                "..",
                "../x",
                "/etc/passwd",
                "a//b.gguf",
                "a/../b.gguf",
                "a/.b/c.gguf",
                ".x",
                "a b",
                "a\n",
                "a\0b",
            )
        ),
        file_name("a" * 201),
        file_name(None),
        manifest(annotations={}),
    ],
)
def test_a_manifest_of_another_form(
    box: Node, signer: Signer, tmp_path: Path, change: Callable[[Draft], object]
) -> None:
    draft = Draft()
    change(draft)
    refused(box, draft.write(tmp_path / "b", signer), 27, commits=True)


@pytest.mark.parametrize(
    ("edit", "code"), [({"size": 1}, 26), ({"size": 1 << 20}, 26), ({"size": 1 << 62}, 24)]
)
def test_a_manifest_that_lies_about_a_length(
    box: Node, signer: Signer, tmp_path: Path, edit: dict[str, int], code: int
) -> None:
    draft = Draft()
    draft.layer.update(edit)
    if edit["size"] >= 1 << 53:  # not even JSON that everybody reads alike
        code = 27
    refused(box, draft.write(tmp_path / "b", signer), code, commits=True)


def test_a_manifest_that_lies_about_what_is_here_already(
    box: Node, folder: Path, signer: Signer, tmp_path: Path
) -> None:
    box.importer.run(folder, "a test")
    lie = Draft(version="2.0.0")
    lie.layer["size"] = 1  # so that it would seem to fit anywhere
    refused(box, lie.write(tmp_path / "2", signer, (2, 2, 2)), 27, commits=True)


def weights(data: bytes) -> Callable[[], Draft]:
    return lambda: Draft(data)


def facts(name: str, value: str) -> Callable[[], Draft]:
    def make() -> Draft:
        draft = Draft()
        draft.manifest["annotations"][f"dev.edge-appliance.model.{name}"] = value
        return draft

    return make


def gguf(version: int = 3, entries: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, 0, entries) + rest


KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    "make",
    [
        weights(b""),
        weights(b"PK\x03\x04 a zip, or a pickle inside one"),
        weights(b"GGUF"),
        weights(gguf(version=1)),
        weights(gguf(entries=2**63)),
        weights(gguf(entries=1)),
        weights(gguf(entries=1, rest=struct.pack("<Q", 2**63))),
        weights(gguf(entries=1, rest=KEY + struct.pack("<I", 99))),
        weights(gguf(entries=1, rest=KEY + struct.pack("<IQ", 8, 2**40))),
        weights(gguf(entries=1, rest=KEY + struct.pack("<IIQ", 9, 4, 2**63))),
        weights(gguf(entries=1, rest=KEY + struct.pack("<IIQ", 9, 9, 1))),
        weights(small_llama(b"")[:-1]),
        weights(header(general__architecture="llama")),
        weights(header()),
        facts("context", "131072"),
        facts("context", "x"),
        facts("kv-bytes-per-token", "1"),
        facts("kv-bytes-per-token", "9" * 13),
    ],
)
def test_weights_whose_header_is_hostile_or_says_something_else(
    box: Node, signer: Signer, tmp_path: Path, make: Callable[[], Draft]
) -> None:
    refused(box, make().write(tmp_path / "b", signer), 27, commits=True)


@pytest.mark.parametrize(
    ("targets", "code"),
    [
        (None, 27),
        ("models/acme/small/1.0.0/Q4_0", 27),
        ([1], 27),
        ([["models"]], 27),
        (["models/acme/other/1.0.0/Q4_0"], 22),
        (["trust/director.json"], 28),
        (["releases/small/1.0.0.json"], 28),
        (["images/engine"], 28),
        (["models/acme/script.py"], 28),
    ],
)
def test_a_release_of_something_that_is_no_model(
    box: Node, signer: Signer, tmp_path: Path, targets: object, code: int
) -> None:
    draft = Draft()
    draft.release["targets"] = targets
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    also = {"images/engine": target(b"", manifest_type), "models/acme/script.py": target(b"")}
    refused(box, draft.write(tmp_path / "b", signer, also=also), code)


@pytest.mark.parametrize("what", ["models/acme/small", "models/acme/../../Q4_0", "models////"])
def test_a_path_that_leads_elsewhere(box: Node, signer: Signer, tmp_path: Path, what: str) -> None:
    draft = Draft()
    draft.path, draft.release["targets"] = what, [what]
    refused(box, draft.write(tmp_path / "b", signer), 28)


def test_one_manifest_under_two_names(box: Node, signer: Signer, tmp_path: Path) -> None:
    draft, alias = Draft(), "models/acme/alias/1.0.0/Q4_0"
    draft.release["targets"] = [draft.path, alias]
    also = {alias: draft.listed()[draft.path]}
    refused(box, draft.write(tmp_path / "b", signer, also=also), 27)


def test_a_model_that_says_what_it_is_by_another_type(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    draft = Draft()
    draft.media_type = "application/octet-stream"
    refused(box, draft.write(tmp_path / "b", signer), 28)


@pytest.mark.parametrize("hint", [{"name": "small"}, [], {"name": "\x1b[2J", "version": "1"}])
def test_a_hint_that_names_no_release(
    box: Node, signer: Signer, tmp_path: Path, hint: object
) -> None:
    draft = Draft()
    draft.hint = hint
    refused(box, draft.write(tmp_path / "b", signer), 27)


def test_a_hint_that_names_a_release_nobody_signed(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    draft = Draft()
    draft.hint = {"name": "small", "version": "9.9.9"}
    refused(box, draft.write(tmp_path / "b", signer), 22)


@pytest.mark.parametrize(
    ("document", "code"),
    [(director(1), 22), (director(3, "other"), 28), (b"{}", 27), (b"junk", 27)],
)
def test_a_director_that_goes_back_or_is_another_organisation_s(
    box: Node, signer: Signer, tmp_path: Path, document: bytes, code: int
) -> None:
    draft = Draft()
    draft.director = director(2)
    box.importer.run(draft.write(tmp_path / "1", signer), "a test")
    draft.director = document
    refused(box, draft.write(tmp_path / "2", signer, (2, 2, 2)), code)
    who = box.trust.director()
    assert who is not None
    assert who.epoch == 2
    draft.director = director(3)
    box.importer.run(draft.write(tmp_path / "3", signer, (3, 3, 3)), "a test")


def test_a_director_that_was_taken_back_is_not_followed_by_an_older_one(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    draft = Draft()
    for number, document in enumerate((director(2), None), start=1):
        draft.director = document
        box.importer.run(draft.write(tmp_path / str(number), signer, (number,) * 3), "a test")
    assert box.trust.director() is None
    draft.director = director(1)
    refused(box, draft.write(tmp_path / "3", signer, (3, 3, 3)), 22)


def test_a_medium_that_fails(
    box: Node, draft: Draft, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wear(monkeypatch, draft.file(folder, "weights").name)
    assert "Input/output error" in str(interrupted(box, folder, 23))
