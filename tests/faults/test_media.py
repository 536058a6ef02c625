"""Disks that fill up and sticks that fail in the middle of an import, and what comes after."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.bundle.media.queue import Step
from appliance.bundle.take.intake import Intake
from appliance.cache import copying
from appliance.core.ids import Digest
from appliance.errors import ApplianceError, IncompleteError, NoSpaceError
from appliance.kit.files import free_bytes
from tests.conftest import need_root, need_tool
from tests.helpers.clock import ScriptedClock
from tests.helpers.gguf import small_llama
from tests.helpers.importing import imported, interrupted, small_node
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Draft, Signer, digest_of

_WEIGHTS_BYTES = 8 << 20


@pytest.fixture
def signer() -> Signer:
    return Signer.new()


@pytest.fixture
def clock() -> ScriptedClock:
    return ScriptedClock(utc=ISSUED)


@pytest.fixture
def draft(monkeypatch: pytest.MonkeyPatch) -> Draft:
    monkeypatch.setattr(copying, "BUFFER_BYTES", 64 << 10)
    return Draft(small_llama(os.urandom(_WEIGHTS_BYTES)))


@contextmanager
def tmpfs(at: Path, size: str) -> Iterator[Path]:
    need_root()
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this root may not mount, as in most containers")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@pytest.mark.parametrize("percent", range(0, 100, 5))
def test_a_disk_that_is_full_at_some_part_of_an_import(
    signer: Signer, clock: ScriptedClock, draft: Draft, tmp_path: Path, percent: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Somebody else takes the space after it was looked for."""
    folder = draft.write(tmp_path / "bundle", signer)
    with tmpfs(tmp_path / "disk", "96m") as disk:
        node = small_node(disk / "node", signer, clock)
        with monkeypatch.context() as blind:
            blind.setattr(Intake, "require_space", lambda *_: None)
            with pytest.raises(NoSpaceError):
                node.importer.run(folder, "a test", _filling(disk, percent))
        assert _state_is_valid(node)
        (disk / "others").unlink()
        assert imported(node, folder)[0] == ("small:1.0.0-Q4_0",)
        node.close()


def _filling(disk: Path, percent: int) -> "Filling":
    return Filling(disk / "others", percent)


class Filling:
    """Takes all the space there is as soon as an import has come so far."""

    def __init__(self, path: Path, percent: int) -> None:
        self._path = path
        self._percent = percent

    def __call__(self, step: Step) -> None:
        so_far = step.doing == "copying" and step.done * 100 >= self._percent * step.total
        if (so_far or (not self._percent and step.total == 0)) and not self._path.exists():
            with self._path.open("wb") as file:
                left = free_bytes(self._path.parent)
                os.posix_fallocate(file.fileno(), 0, max(1, left))


def _state_is_valid(node: Node) -> bool:
    blobs = node.store.blobs
    return all(digest_of(blobs.path(d).read_bytes()) == d for d in blobs.all())


@contextmanager
def worn_stick(bundle: Path, at: Path, left: int, error: int) -> Iterator[Path]:
    """Mount a stick that gives so many bytes and then fails."""
    need_root()
    need_tool("fusermount3")
    at.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "tests.faults.worn",
        str(bundle),
        str(at),
        str(left),
        str(error),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if os.path.ismount(at):
                break
            time.sleep(0.05)
        else:
            pytest.skip("FUSE does not mount here")
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=False)
        process.wait(10)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENODEV])
@pytest.mark.parametrize("percent", [5, 50, 95])
def test_a_stick_that_fails_or_is_pulled(
    signer: Signer, clock: ScriptedClock, draft: Draft, tmp_path: Path, percent: int,
    error: int,
) -> None:  # fmt: skip
    folder = draft.write(tmp_path / "bundle", signer)
    node = small_node(tmp_path / "node", signer, clock)
    with worn_stick(folder, tmp_path / "stick", percent * _WEIGHTS_BYTES // 100, error) as stick:
        found = interrupted(node, stick, 23)
    assert os.strerror(error) in str(found)
    assert "goes on from here" in str(found.hint)
    kept = node.store.blobs.kept(Digest(digest_of(draft.weights)))
    lost = percent * _WEIGHTS_BYTES // 100 - kept
    assert lost < copying.FLUSH_BYTES
    assert kept
    assert imported(node, folder)[0] == ("small:1.0.0-Q4_0",)
    node.close()


@pytest.mark.parametrize("left", [0, 100, 3000])
def test_a_stick_that_fails_among_its_metadata(
    signer: Signer, clock: ScriptedClock, draft: Draft, tmp_path: Path, left: int
) -> None:
    folder = draft.write(tmp_path / "bundle", signer)
    node = small_node(tmp_path / "node", signer, clock)
    with worn_stick(folder, tmp_path / "stick", left, errno.EIO) as stick:
        with pytest.raises(ApplianceError) as caught:
            node.importer.run(stick, "a test")
        assert isinstance(caught.value, IncompleteError)
    assert imported(node, folder)[0] == ("small:1.0.0-Q4_0",)
    node.close()
