"""The executable itself, as the public suite starts it."""

import datetime
import os
import subprocess
import sys
from pathlib import Path

from tests.conformance.conftest import Runner
from tests.conformance.repository import DAY, TOP, Repository

CLIENT = Path(__file__).with_name("tuf_client")


def run(client: Runner, *command: str, target: str = "") -> int:
    named = ["--target-name", target] if target else []
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [CLIENT, *named, *client.arguments(*command)],
        check=False,
        capture_output=True,
        env={**os.environ, "PATH": path},
    ).returncode


def test_init_refresh_and_download(client: Runner, repo: Repository) -> None:
    expires = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + DAY
    for role in TOP:
        repo.role(role).expires = expires
    repo.add_target("a/file", b"contents")
    repo.publish("root", "targets", "snapshot", "timestamp")
    first = client.folder / "first_root.json"
    first.write_bytes(repo.served("root", 1))
    assert run(client, "init", str(first)) == 0
    assert repo.asked == []
    assert run(client, "refresh") == 0
    assert client.trusted() == dict.fromkeys(TOP, 2)
    assert run(client, "download", target="a/file") == 0
    assert run(client, "download", target="another") == 1
    assert client.downloaded() == [b"contents"]
    repo.role("timestamp").expires = expires - 2 * DAY
    repo.publish("timestamp")
    assert run(client, "refresh") == 1
