"""The demo as a stranger runs it; and however it ends, nothing is left."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import DEMO_BUNDLE, need_root, need_tool
from tests.e2e.conftest import WITNESS
from tests.helpers.brokers import nats_server

pytestmark = pytest.mark.integration
COMMAND = [sys.executable, "-m", "appliance", "demo", "--bundle", str(DEMO_BUNDLE)]


@pytest.fixture
def scratch(demo_weights: Path) -> Iterator[Path]:
    """A folder for the demo's scratch folder, with the model already in the cache."""
    assert demo_weights.exists()
    folder = Path(tempfile.mkdtemp(prefix="appliance-test-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def run(
    scratch: Path, *more: str, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, *COMMAND, "--once", *more],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def leftovers(scratch: Path) -> list[str]:
    """What a demo left: files, processes, control groups."""
    found = [str(path) for path in scratch.iterdir()]
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(scratch) in entry.read_text():
                found.append(entry.read_text().replace("\0", " "))
        except OSError:
            continue
    return found + sorted(empty_groups() - BEFORE)


def empty_groups() -> set[str]:
    """The control groups of engines that are gone."""
    groups = Path("/sys/fs/cgroup").glob("**/appliance-*/cgroup.procs")
    return {str(group) for group in groups if not group.read_text()}


BEFORE = empty_groups()
"""What somebody left who was killed before; no business of these tests."""


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_all_of_it_happens_on_either_loopback(scratch: Path, host: str) -> None:
    need_tool("mosquitto")
    need_root()
    done = run(scratch, "--witness", str(WITNESS), "--host", host)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it happened." in done.stdout
    assert "The witness agrees" in done.stdout
    assert leftovers(scratch) == []


def test_it_needs_no_network_but_loopback(scratch: Path) -> None:
    """In a network namespace where there is no other way out."""
    need_tool("mosquitto")
    need_root()
    ip = need_tool("ip")
    inside = (need_tool("unshare"), "--net", "sh", "-c", f'{ip} link set lo up; exec "$@"', "sh")
    done = run(scratch, "--witness", str(WITNESS), prefix=inside)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_signal_at_any_time_leaves_nothing(scratch: Path, how: signal.Signals, step: int) -> None:
    """While the bundle is built, while the engine starts, while nobody listens to the node."""
    need_tool("mosquitto")
    with subprocess.Popen(
        [*COMMAND, "--once"],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith(f"{step:2}.") for line in process.stdout)
        os.killpg(process.pid, how)
        time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # of somebody who does not like to wait
        assert process.wait(60) == 130
    assert leftovers(scratch) == []


def test_a_signal_while_the_model_is_fetched_leaves_nothing(scratch: Path, tmp_path: Path) -> None:
    need_tool("mosquitto")
    cache = tmp_path / "cache"
    environment = {"TMPDIR": str(scratch), "XDG_CACHE_HOME": str(cache), "PIP_NO_CACHE_DIR": "1"}
    with subprocess.Popen(
        [*COMMAND, "--once"],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(cache.rglob("fetch-*/*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 130
    assert list(cache.rglob("fetch-*")) == []
    assert leftovers(scratch) == []


def test_a_demo_that_fails_says_what_to_do_and_leaves_nothing(
    scratch: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(DEMO_BUNDLE.read_text())
    command = [sys.executable, "-m", "appliance", "demo", "--once", "--bundle", str(bad)]
    done = subprocess.run(
        command,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "is not locked" in done.stderr
    assert "appliance bundle lock" in done.stderr
    assert leftovers(scratch) == []


def test_all_of_it_happens_where_mosquitto_is_not_installed(scratch: Path) -> None:
    nats_server()
    need_root()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_MOSQUITTO, str(DEMO_BUNDLE), str(WITNESS)],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The witness agrees" in done.stdout
    assert leftovers(scratch) == []


_WITHOUT_MOSQUITTO = """
import shutil, sys
which = shutil.which
shutil.which = lambda name, **more: None if name == "mosquitto" else which(name, **more)
sys.argv = ["appliance", "demo", "--once", "--bundle", sys.argv[1], "--witness", sys.argv[2]]
from appliance.cli.main import main
main()
"""


def test_without_a_broker_it_says_which_package_to_install(scratch: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(scratch), "PATH": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_BROKER, str(DEMO_BUNDLE)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9
    assert "scripts/system-packages mosquitto" in done.stderr
    assert leftovers(scratch) == []


_WITHOUT_BROKER = """
import shutil, sys
shutil.which = lambda *_, **__: None
sys.argv = ["appliance", "demo", "--once", "--bundle", sys.argv[1]]
from appliance.cli.main import main
main()
"""
