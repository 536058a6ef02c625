"""A bad day: one screen, what to do, the right exit status, and nothing half-done."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.helpers.disk import fill
from tests.helpers.organisation import Organisation

COMMAND = [sys.executable, "-m", "appliance"]
DEPLOYMENT = """\
apiVersion: edge-appliance.dev/v1alpha1
kind: ModelDeployment
metadata: {name: notes}
spec: {model: small, context: -1}
"""


def appliance(
    *arguments: str, env: dict[str, str] | None = None, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        timeout=60,
        check=False,
        user=user,
    )


def says(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One screen, no traceback, the status, and each of the words."""
    assert done.returncode == status, done.stderr
    assert any(line.startswith("error[") for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 20
    for word in words:
        assert word in done.stderr


@pytest.fixture
def state(tmp_path: Path, organisation: Organisation) -> Path:
    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    folder = tmp_path / "node"
    done = appliance(
        "node", "init", "--name", "box-1", "--root", str(root), "--state-dir", str(folder)
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_a_bad_document_is_refused_before_anything_is_asked(tmp_path: Path, state: Path) -> None:
    file = tmp_path / "notes.yaml"
    file.write_text(DEPLOYMENT)
    done = appliance("apply", "-f", str(file), "--state-dir", str(state))
    says(done, 3, f"{file}:4: spec.context: -1 is not allowed", "appliance schema ModelDeployment")


def test_a_file_that_is_not_there_is_named(state: Path) -> None:
    says(appliance("apply", "-f", "nowhere.yaml", "--state-dir", str(state)), 9, "nowhere.yaml")


def test_a_flipped_byte_is_refused_and_nothing_stays(
    state: Path, organisation: Organisation
) -> None:
    bundle = organisation.bundle("flipped")
    blob = max((bundle / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size)
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    done = appliance("bundle", "import", str(bundle), "--state-dir", str(state))
    says(done, 26, "holds other bytes than those that were signed", "copy the bundle again")
    assert list((state / "store" / "blobs" / "sha256").iterdir()) == []
    assert [p.name for p in (state / "incoming").iterdir()] == [".lock"]


def test_a_missing_blob_is_refused(state: Path, organisation: Organisation) -> None:
    bundle = organisation.bundle("short")
    max((bundle / "blobs" / "sha256").iterdir(), key=lambda p: p.stat().st_size).unlink()
    done = appliance("bundle", "import", str(bundle), "--state-dir", str(state))
    says(done, 23, "lacks blobs/sha256/", "copy all of the bundle's folder")


def test_a_foreign_key_is_refused(state: Path, tmp_path: Path) -> None:
    bundle = Organisation.create(tmp_path / "others").bundle()
    done = appliance("bundle", "import", str(bundle), "--state-dir", str(state))
    says(done, 20, "not signed by enough of the keys this node trusts")


def test_what_is_no_bundle_is_said_to_be_none(state: Path, tmp_path: Path) -> None:
    done = appliance("bundle", "import", str(tmp_path), "--state-dir", str(state))
    says(done, 23, "holds no signed list", "bundle.json")
    done = appliance("bundle", "import", str(tmp_path / "x"), "--state-dir", str(state))
    says(done, 9, "there is no bundle at")


def test_a_busy_port_is_named(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = appliance("gateway", "run", "--port", port, "--state-dir", str(state))
    says(done, 4, f"port {port} on 127.0.0.1 is in use", "--port")


def test_a_gateway_open_to_all_without_a_key_does_not_start(state: Path) -> None:
    done = appliance(
        "gateway", "run", "--host", "0.0.0.0", "--port", "0", "--state-dir", str(state)
    )
    says(done, 2, "open to everybody", "gateway key create")


def test_without_a_controller_a_command_says_how_to_start_it(state: Path) -> None:
    says(appliance("status", "--state-dir", str(state)), 7, "appliance node run")


def test_two_controllers_do_not_share_a_state_folder(state: Path) -> None:
    first = subprocess.Popen(
        [*COMMAND, "node", "run", "--state-dir", str(state)], stderr=subprocess.DEVNULL
    )
    try:
        _until(lambda: appliance("status", "--state-dir", str(state)).returncode == 0)
        done = appliance("node", "run", "--state-dir", str(state))
        says(done, 8, "in use by another process")
    finally:
        first.terminate()
        first.wait()


def test_a_folder_that_is_no_node_says_how_to_make_one(tmp_path: Path) -> None:
    says(appliance("node", "run", "--state-dir", str(tmp_path)), 9, "appliance node init")


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_first_start_refuses_a_disk_of_64_mib(
    tmp_path: Path, organisation: Organisation
) -> None:
    need_root()
    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    folder = tmp_path / "small"
    with tmpfs(folder, "size=64m"):
        state = folder / "node"
        arguments = ("--name", "box-1", "--root", str(root), "--state-dir", str(state))
        done = appliance("node", "init", *arguments)
        says(done, 24, "a new node needs 96 MiB", "free ")
        assert not list(state.rglob("*"))


def test_a_bundle_that_does_not_fit_is_refused_before_a_byte_is_copied(
    tmp_path: Path, organisation: Organisation
) -> None:
    need_root()
    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    bundle = organisation.bundle("large", body=os.urandom(24 << 20))
    folder = tmp_path / "small"
    with tmpfs(folder, "size=140m"):
        state = folder / "node"
        done = appliance(
            "node", "init", "--name", "box-1", "--root", str(root), "--state-dir", str(state)
        )
        assert done.returncode == 0, done.stderr
        done = appliance("bundle", "import", str(bundle), "--state-dir", str(state))
        says(done, 24, "there is no room for large 1.0.0", "are free", "free ")
        assert list((state / "store" / "blobs" / "sha256").iterdir()) == []


def test_a_read_only_state_folder_is_said_to_be_one(
    tmp_path: Path, organisation: Organisation
) -> None:
    need_root()
    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    folder = tmp_path / "ro"
    with tmpfs(folder, "size=200m"):
        state = folder / "node"
        init = ("node", "init", "--name", "box-1", "--root", str(root), "--state-dir", str(state))
        assert appliance(*init).returncode == 0
        before = sorted(folder.rglob("*"))
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        for command in (("node", "run"), ("gateway", "run", "--port", "0")):
            done = appliance(*command, "--state-dir", str(state))
            says(done, 6, "Read-only file system", "writable")
        says(appliance("bundle", "import", str(tmp_path), "--state-dir", str(state)), 6)
        assert sorted(folder.rglob("*")) == before


def test_a_missing_engine_is_said_in_the_condition_and_costs_nothing_else(
    state: Path, organisation: Organisation, tmp_path: Path
) -> None:
    bundle = organisation.bundle("small")
    assert appliance("bundle", "import", str(bundle), "--state-dir", str(state)).returncode == 0
    file = tmp_path / "notes.yaml"
    file.write_text(DEPLOYMENT.replace("-1", "512"))
    (tmp_path / "no-engine").mkdir()
    (tmp_path / "no-engine" / "sitecustomize.py").write_text(
        "import importlib.util as u; f = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'xllamacpp' else f(name, *a)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "no-engine")}
    node = subprocess.Popen(
        [*COMMAND, "node", "run", "--state-dir", str(state)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: appliance("status", "--state-dir", str(state)).returncode == 0)
        applied = appliance("apply", "-f", str(file), "--state-dir", str(state))
        assert applied.returncode == 0, applied.stderr
        shown = appliance("get", "notes", "--state-dir", str(state)).stdout
        assert "no llama-cpp engine is installed" in shown
    finally:
        node.terminate()
        node.wait()


def test_a_model_no_engine_can_load_is_said_with_the_engines_own_words(
    state: Path, organisation: Organisation, tmp_path: Path
) -> None:
    bundle = organisation.bundle("small")
    assert appliance("bundle", "import", str(bundle), "--state-dir", str(state)).returncode == 0
    file = tmp_path / "notes.yaml"
    file.write_text(DEPLOYMENT.replace("-1", "512"))
    node = subprocess.Popen(
        [*COMMAND, "node", "run", "--state-dir", str(state)], stderr=subprocess.DEVNULL
    )
    try:
        _until(
            lambda: appliance("apply", "-f", str(file), "--state-dir", str(state)).returncode == 0
        )
        _until(
            lambda: "ended with status 1" in appliance("status", "--state-dir", str(state)).stdout
        )
        assert "log: " in appliance("status", "--state-dir", str(state)).stdout
        assert "error loading model" in appliance("logs", "notes", "--state-dir", str(state)).stdout
    finally:
        appliance("node", "stop", "--engines", "--state-dir", str(state))
        node.wait(30)


def test_a_full_disk_is_said_loudly_refuses_what_is_new_and_passes(
    tmp_path: Path, organisation: Organisation
) -> None:
    need_root()
    root = tmp_path / "root.json"
    root.write_bytes(organisation.root)
    file = tmp_path / "notes.yaml"
    file.write_text(DEPLOYMENT.replace("-1", "512"))
    folder = tmp_path / "small"
    with tmpfs(folder, "size=260m"):
        state = ("--state-dir", str(folder / "node"))
        init = ("node", "init", "--name", "box-1", "--root", str(root), *state)
        assert appliance(*init).returncode == 0
        node = subprocess.Popen([*COMMAND, "node", "run", *state], stderr=subprocess.DEVNULL)
        try:
            _until(lambda: appliance("status", *state).returncode == 0)
            assert "disk: FULL" not in appliance("status", *state).stdout
            filler = fill(folder)
            _until(lambda: "disk: FULL" in appliance("status", *state).stdout)
            assert not (folder / "node" / "reserve").exists()
            says(appliance("apply", "-f", str(file), *state), 24, "nothing new is begun")
            says(appliance("bundle", "import", str(tmp_path), *state), 24, "what serves goes on")
            shown = appliance("get", "--json", *state)  # the controller goes on
            assert shown.returncode == 0
            stick = tmp_path / "stick"
            stick.mkdir()
            done = appliance("sync", "export", str(stick), *state)  # what must be recorded can be
            assert done.returncode == 0, done.stderr
            filler.unlink()
            _until(lambda: "disk: FULL" not in appliance("status", *state).stdout)
            assert (folder / "node" / "reserve").stat().st_size == 64 << 20
            assert appliance("apply", "-f", str(file), *state).returncode == 0
        finally:
            node.terminate()
            node.wait(30)


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)
