"""Imports that do not come to their end: crashes, a full disk, two at once."""

import os
import shutil
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.media.queue import Step
from appliance.bundle.take.accept import Importer
from appliance.bundle.take.intake import Intake
from appliance.cache.copying import BUFFER_BYTES
from appliance.core.ids import Digest
from appliance.errors import NoSpaceError, NotFoundError, SignatureError
from appliance.kit.files import free_bytes, is_locked
from tests.conftest import need_root
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import small_llama
from tests.helpers.importing import Seen, audit, imported, interrupted, names, refused, small_node
from tests.helpers.media import wear
from tests.helpers.organisation import Node
from tests.helpers.signing import Draft, Signer, digest_of

pytestmark = pytest.mark.slow


class KilledError(BaseException):
    """The process is gone."""


def test_a_crash_before_the_ledger_s_transaction_leaves_blobs_without_a_row(
    box: Node,
    signer: Signer,
    clock: ScriptedClock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Draft().write(tmp_path / "b", signer)

    def killed(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as crash:
        crash.setattr(Importer, "_admit", killed)
        with pytest.raises(KilledError):
            box.importer.run(folder, "a test")
    assert (len(box.store.blobs.all()), names(box)) == (3, [])
    assert not is_locked(box.state / "incoming" / ".lock")
    box.close()
    again = small_node(box.state, signer, clock)
    try:
        assert imported(again, folder) == (("small:1.0.0-Q4_0",), 0)
        assert names(again) == ["small:1.0.0-Q4_0"]
    finally:
        again.close()


def test_a_crash_between_two_blobs_is_made_good(box: Node, signer: Signer, tmp_path: Path) -> None:
    """Some are in the store, one lies half written in incoming/, as a killed process leaves it."""
    draft = Draft()
    folder = draft.write(tmp_path / "b", signer)
    box.store.blobs.add(draft.config)
    part = box.state / "incoming" / f"{digest_of(draft.weights).removeprefix('sha256:')}.part"
    part.write_bytes(draft.weights[:100])
    part.chmod(0o444)
    size = len(draft.weights) + len(draft.blobs["manifest"])
    assert imported(box, folder) == (("small:1.0.0-Q4_0",), size)
    assert not part.exists()


def test_a_second_import_waits_for_the_first(box: Node, signer: Signer, tmp_path: Path) -> None:
    folder = Draft().write(tmp_path / "b", signer)
    copying, waiting, go_on = threading.Event(), threading.Event(), threading.Event()

    def first(step: Step) -> None:
        if step.doing == "copying":
            copying.set()
            assert go_on.wait(10)

    def second(step: Step) -> None:
        if step.doing == "waiting for another import to end":
            waiting.set()

    with ThreadPoolExecutor() as threads:
        one = threads.submit(box.importer.run, folder, "one", first)
        assert copying.wait(10)
        two = threads.submit(box.importer.run, folder, "two", second)
        assert waiting.wait(10)
        assert not wait([two], timeout=0.1).done
        assert names(box) == []
        go_on.set()
        assert one.result(10).copied_bytes > 0
        assert (two.result(10).copied_bytes, two.result().added) == (0, ())
    assert [record["body"]["by"] for record in audit(box)] == ["one", "two"]


def test_who_gives_up_in_the_middle_may_go_on_later(
    box: Node, signer: Signer, tmp_path: Path
) -> None:
    def gone(step: Step) -> None:
        if step.doing == "copying":
            raise BrokenPipeError

    before, folder = Seen.of(box).without_copies(), Draft().write(tmp_path / "b", signer)
    with pytest.raises(BrokenPipeError):
        box.importer.run(folder, "a test", gone)
    assert Seen.of(box).without_copies() == before
    assert imported(box, folder)[0] == ("small:1.0.0-Q4_0",)


def test_a_stick_that_is_pulled_is_gone_on_with(
    box: Node, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = Draft(small_llama(os.urandom(3 * BUFFER_BYTES)))
    folder = draft.write(tmp_path / "b", signer)
    weights = draft.file(folder, "weights")
    wear(monkeypatch, weights.name, after=2 * BUFFER_BYTES)
    assert "Input/output error" in str(interrupted(box, folder, 23))
    assert box.store.blobs.kept(Digest(digest_of(draft.weights))) == 2 * BUFFER_BYTES
    monkeypatch.undo()
    wear(monkeypatch, weights.name, before=2 * BUFFER_BYTES)
    assert imported(box, folder)[0] == ("small:1.0.0-Q4_0",)


def test_without_space_nothing_is_begun(
    box: Node, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.planner.space.RESERVE_BYTES", 1 << 60)
    error = refused(box, Draft().write(tmp_path / "b", signer), 24, commits=True)
    assert "there is no room for small 1.0.0: 1 MiB are needed" in str(error)


@pytest.mark.slow
def test_a_disk_that_fills_up_in_the_middle(
    signer: Signer, clock: ScriptedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount, as in most containers")
    try:
        node = Node.create(disk / "box", signer.root_file(), clock)
        folder = Draft(small_llama(bytes(8 << 20))).write(tmp_path / "b", signer)
        with (disk / "others").open("wb") as others:
            os.posix_fallocate(others.fileno(), 0, free_bytes(disk) - (4 << 20))
        assert "are free" in str(refused(node, folder, 24, commits=True))
        # Somebody else takes the space after it was looked for:
        monkeypatch.setattr(Intake, "require_space", lambda *_: None)
        assert "no space left while writing" in str(interrupted(node, folder, 24))
        (disk / "others").unlink()
        assert imported(node, folder)[0] == ("small:1.0.0-Q4_0",)
        node.close()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_refusal_is_told_even_when_it_cannot_be_recorded(
    box: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Draft().write(tmp_path / "b", Signer.new())
    full: Future[None] = Future()
    full.set_exception(NoSpaceError("the disk is full"))
    monkeypatch.setattr(box.ledger, "note", lambda *_: full)
    with pytest.raises(SignatureError):
        box.importer.run(folder, "a test")


def test_a_node_without_a_root_says_what_to_do(box: Node, signer: Signer, tmp_path: Path) -> None:
    folder = Draft().write(tmp_path / "b", signer)
    shutil.rmtree(box.trust.folder)
    with pytest.raises(NotFoundError, match="trusts no root yet"):
        box.importer.run(folder, "a test")
