"""What an engine cannot do any more, tried by a process that has given it up."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.runtime.contain import NOT_YET
from tests.conftest import ROOT, need_root

ENGINE_UID, GROUP_OF_OURS = 61184, 4
NETWORK, DISK = "no network namespace but its own", "no writable disk but its socket"
LEFT = {"read", "make a socket", "make it again", "write to null"}
ABSTRACT = f"appliance-test-{os.getpid()}"
Attempt = Callable[..., dict[str, Any]]


@pytest.fixture
def place() -> Iterator[Path]:
    """Folders that are open to everybody, so that nothing but containment is in the way."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, which is closed to other users
        place = Path(name)
        for folder in (place, place / "engine", place / "outside"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o777)
        (place / "outside" / "weights").write_bytes(b"good")
        (place / "outside" / "weights").chmod(0o666)
        yield place


@pytest.fixture
def attempt(place: Path) -> Iterator[Attempt]:
    """Run a contained process; beside it wait servers that it must not reach."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0)) as free,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        abstract.bind("\0" + ABSTRACT)
        abstract.listen()
        free_port = free.getsockname()[1]
        free.close()

        def run(uid: int | None = None, *, without_privilege: bool = False) -> dict[str, Any]:
            order = {
                "folder": str(place / "engine"), "outside": str(place / "outside"),
                "port": server.getsockname()[1], "free_port": free_port, "abstract": ABSTRACT,
                "uid": uid, "without_privilege": without_privilege,
            }  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-m", "tests.helpers.contained", json.dumps(order)],
                cwd=ROOT, capture_output=True, text=True, check=False,
                extra_groups=[GROUP_OF_OURS] if os.geteuid() == 0 else None,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            found: dict[str, Any] = json.loads(done.stdout)
            assert (place / "outside" / "log").read_text() == "still written\n"
            return found

        yield run


def need_landlock(found: dict[str, Any]) -> None:
    if found["landlock"] == 0:
        assert any(reason.startswith(DISK) for reason in found["missing"])
        pytest.skip("this kernel has no Landlock, and containment says so")


def able(found: dict[str, Any]) -> set[str]:
    """Return what it could do, without that which an older kernel's Landlock cannot forbid."""
    since = {"truncate outside": 3, "listen by TCP": 4, "connect by TCP": 4, "signal its parent": 6}
    since["connect to an abstract socket"] = 6
    tries = found["tries"].items()
    return {name for name, worked in tries if worked and since.get(name, 1) <= found["landlock"]}


def test_root_without_another_user_still_gives_up_disk_and_network(
    attempt: Attempt, place: Path
) -> None:
    need_root()
    found = attempt()
    need_landlock(found)
    assert found["holds"] == [NETWORK, "no new privileges", DISK]
    assert found["missing"] == ["own user (the controller does not run as root)", NOT_YET]
    assert able(found) == {*LEFT, "become root"}
    assert found["interfaces"] == ["lo"]
    assert [path.name for path in (place / "engine").iterdir()] == ["e.sock"]


def test_an_engine_s_user_has_nothing_but_its_socket(attempt: Attempt, place: Path) -> None:
    need_root()
    found = attempt(ENGINE_UID)
    need_landlock(found)
    assert found["holds"] == [NETWORK, "no new privileges", DISK, "own user"]
    assert found["missing"] == [NOT_YET]
    assert (found["uids"], found["groups"]) == ([ENGINE_UID] * 3, [])
    assert found["groups_before"] == [GROUP_OF_OURS]
    assert found["no_new_privs"]
    assert found["oom_score_adj"] == 500
    assert able(found) == LEFT
    assert (place / "outside" / "weights").read_bytes() == b"good"


@pytest.mark.parametrize("uid", [None, ENGINE_UID])
def test_what_a_controller_without_privilege_cannot_take_away_is_listed(
    attempt: Attempt, place: Path, uid: int | None
) -> None:
    found = attempt(uid, without_privilege=os.geteuid() == 0)
    need_landlock(found)
    assert found["holds"] == ["no new privileges", DISK]
    network, user, seccomp = found["missing"]
    assert network == f"{NETWORK} (Operation not permitted)"
    assert user.startswith("own user (")
    assert seccomp == NOT_YET
    assert able(found) == LEFT  # Landlock forbids TCP where the network could not be taken away
    assert (place / "outside" / "weights").read_bytes() == b"good"
