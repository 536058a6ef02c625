"""A site without a link, its hub without a broker: what people type, from stick to restore."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.core.ids import NodeId
from appliance.node import identity
from tests.helpers.organisation import Organisation

pytestmark = pytest.mark.slow


def appliance(*arguments: object, status: int = 0) -> str:
    command = [sys.executable, "-m", "appliance", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


class Story:
    """A hub that answers on loopback and has no broker, and the folder of a node."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hub_state, self.state = folder, folder / "hub", folder / "node"
        organisation = Organisation.create(folder / "organisation")
        hub = ("--state-dir", self.hub_state)
        appliance("hub", "init", "--org", "acme", "--director-epoch", 2, *hub)
        keys: dict[str, Any] = json.loads(appliance("hub", "keys", "--json", *hub))
        organisation.repository.name_director(keys)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        text = f'[hub]\nport = {port}\nbroker = "mqtt://127.0.0.1:1"\n'
        (self.hub_state / "settings.toml").write_text(text)
        identity.create(self.state, NodeId("box-1"), organisation.root)
        bundle = organisation.bundle()
        appliance("bundle", "import", bundle, "--state-dir", self.state)

    @contextmanager
    def running_hub(self) -> Iterator[None]:
        command = [sys.executable, "-m", "appliance", "hub", "run"]
        process = subprocess.Popen(
            [*command, "--state-dir", str(self.hub_state)], stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(200):
                done = subprocess.run(
                    [*command[:-1], "nodes", "--state-dir", str(self.hub_state)],
                    capture_output=True,
                    check=False,
                )
                if done.returncode == 0:
                    break
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(20)

    def hub(self, *arguments: object, status: int = 0) -> str:
        return appliance("hub", *arguments, "--state-dir", self.hub_state, status=status)

    def node(self, *arguments: object, status: int = 0) -> str:
        return appliance(*arguments, "--state-dir", self.state, status=status)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path)
    yield made
    (made.state / "reserve").unlink(missing_ok=True)


def _hand_in(story: Story, said: str, where: list[Path]) -> None:
    """Do what a restore says comes next: it completes the ledger from before."""
    last = re.search("audit record ([0-9]+)", said)
    assert last is not None
    handed = re.findall("next: at the hub, appliance hub sync import (.*)", said)
    assert [Path(folder).parent for folder in handed] == where
    committed = []
    for folder in handed:
        found = story.hub("sync", "import", folder)
        assert "LACKING" not in found
        committed += [int(n) for n in re.findall("audit: committed up to ([0-9]+)", found)]
    assert committed == [int(last[1]), int(last[1]) + 2]  # its own record; and two backups since


def test_a_year_of_sticks_a_backup_and_a_restore(story: Story, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    with story.running_hub():
        story.hub("admit", "--key", story.state / "identity" / "node.json")
        said = story.node("sync", "export", stick)
        assert f"next: at the hub, appliance hub sync import {stick}" in said
        said = story.hub("sync", "import", stick)
        assert re.search(r"audit: committed up to [1-9]", said)
        assert "LACKING" not in said
        assert "time.json: taken" in story.node("sync", "import", stick)
        assert "time.json: nothing new" in story.node("sync", "import", stick)

        said = story.node("audit", "verify", "--against", stick)
        assert re.search(r"the audit log is whole: records 1 to [0-9]+ .*, [1-9] witnesses", said)
        head = said.split("audit record ")[1].replace(", ", ":").strip()
        story.node("audit", "verify", "--against", head)
        story.node("audit", "verify", "--against", "99999:00000000", status=23)
        number = head.split(":")[0]
        story.node("audit", "verify", "--against", f"{number}:00000000", status=26)
        assert "import" in story.node("audit", "tail")

        saved = tmp_path / "saved"
        assert "private keys" in story.node("backup", saved)
        story.node("backup", saved, status=6)
        story.node("restore", saved, status=6)
        story.node("backup", tmp_path / "later")
        said = story.node("restore", saved, "--replace")
        assert "with a new ledger" in said
        assert re.search("  [1-9] records that the ledger in its place had not sent", said)
        _hand_in(story, said, [tmp_path, story.state])
        assert '"epoch"' in story.node("audit", "tail")
        story.node("audit", "verify", "--against", stick, status=9)  # of the ledger before
        assert story.node("sync", "export", stick)
        assert "box-1" in story.hub("sync", "import", stick)
        assert "REFUSED" not in story.node("sync", "import", stick)

        assert "private keys" in story.hub("backup", tmp_path / "saved-hub")
        story.hub("restore", tmp_path / "saved-hub", status=8)  # it runs
    said = story.hub("restore", tmp_path / "saved-hub", "--replace")
    assert "1 nodes are asked nothing" in said
    with story.running_hub():
        assert "box-1" in story.hub("nodes")


def test_what_is_odd_on_a_stick_is_said_and_keeps_nothing_out(
    story: Story, small_disk: Path, make_read_only: Callable[[], None]
) -> None:
    with story.running_hub():
        story.hub("admit", "--key", story.state / "identity" / "node.json")
        story.node("sync", "export", small_disk)
        evil = small_disk / "up" / "aaa-evil"
        evil.mkdir()
        (evil / "reported.json").symlink_to("/etc/passwd")
        said = story.hub("sync", "import", small_disk, status=26)
        assert said.count("aaa-evil/reported.json cannot be read: it is a link") == 1
        assert "try: export again from the node" in said
        assert re.search(r"audit: committed up to [1-9]", said)
        assert "written for it: time.json" in said
        (evil / "reported.json").unlink()
        said = story.hub("sync", "import", small_disk)
        assert "no new receipts, " in said
        assert "box-1: nothing new, " in said
        (small_disk / "dn" / "box-1" / "cmd-3.json").symlink_to("/etc/passwd")
        said = story.node("sync", "import", small_disk, status=26)
        assert "time.json: taken" in said
        assert "cmd-3.json: REFUSED (corrupt)" in said
        assert "time.json: nothing new" in story.node("sync", "import", small_disk, status=26)
        story.node("sync", "export", small_disk)
        shutil.rmtree(small_disk / "dn")
        make_read_only()
        said = story.hub("sync", "import", small_disk, status=6)
        assert re.search(r"box-1: [1-9][0-9]* messages? taken", said)
        assert said.count("NOT WRITTEN, the answers for box-1 (state-unusable): Read-only") == 1
        assert "take off its write protection" in said
        said = story.hub("receipts", "import", small_disk, status=6)
        assert "NOT WRITTEN, the time it asked for (state-unusable): Read-only" in said


def test_what_is_no_stick_or_no_backup_is_said(story: Story, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "appliance sync export" in story.node("sync", "import", empty, status=9)
    story.node("sync", "export", tmp_path / "nowhere", status=9)
    story.node("restore", empty, status=9)
    story.hub("restore", empty, status=9)
    story.hub("backup", tmp_path / "saved-hub")
    said = story.node("restore", tmp_path / "saved-hub", "--replace", status=27)
    assert "appliance hub restore" in said
