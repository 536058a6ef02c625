"""Enrolment by the commands that people type: with a token, and with a stick carried to and fro."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from appliance.core.ids import NodeId
from appliance.node import identity
from appliance.trust.certificates import Chain, authority_hash
from appliance.trust.enrolment import EnrolmentToken
from tests.helpers.organisation import Organisation
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.slow


def appliance(*arguments: object, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "appliance", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=typed)


@dataclass
class Fleet:
    """A hub that runs, and how to ask it and its nodes."""

    folder: Path
    root: bytes
    url: str

    def hub(self, *arguments: object, typed: str = "") -> subprocess.CompletedProcess[str]:
        state = self.folder / "hub"
        return appliance("hub", *arguments, "--url", self.url, "--state-dir", state, typed=typed)

    def node(self, name: str) -> Path:
        made = self.folder / name
        identity.create(made, NodeId(name), self.root)
        (made / "reserve").unlink()
        return made

    def states(self) -> dict[str, str]:
        found = json.loads(self.hub("nodes", "--json").stdout)
        return {n["node"]: n["state"] for n in found["nodes"]}


@pytest.fixture
def fleet(tmp_path: Path, organisation: Organisation) -> Iterator[Fleet]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    state = tmp_path / "hub"
    assert appliance("hub", "init", "--org", "acme", "--state-dir", state).returncode == 0
    settings = {"APPLIANCE_HUB_PORT": str(port), "APPLIANCE_HUB_BROKER": "mqtt://127.0.0.1:1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance", "hub", "run", "--state-dir", str(state)],
        env={**os.environ, **settings},
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    try:
        wait_until(answers, "the hub", 30)
        yield Fleet(tmp_path, organisation.root, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_token_is_all_that_a_new_node_needs(fleet: Fleet) -> None:
    box = fleet.node("box-1")
    shown = appliance("enrol", "--state-dir", box).stdout
    assert "no certificate yet" in shown
    made = fleet.hub("token", "box-1", "--site", "hall 4", "--expires", "10m")
    token = made.stdout.splitlines()[0]
    assert made.stdout.splitlines()[1] == "  it makes one machine box-1, once, within 10m"
    done = appliance("enrol", "--hub", fleet.url, "--token", token, "--state-dir", box)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("this node's certificate ")
    assert fleet.states() == {"box-1": "never heard"}
    assert said(appliance("enrol", "show", "--json", "--state-dir", box))["hub"] == fleet.url
    thief = fleet.node("thief")
    other = appliance("enrol", "--hub", fleet.url, "--token", token, "--state-dir", thief)
    assert other.returncode == 28
    assert not (thief / "identity" / "tls.pem").exists()
    again = appliance("enrol", "--hub", fleet.url, "--state-dir", box)
    assert again.stdout.startswith("this node had it already")
    revoked = fleet.hub("revoke", "box-1", "--why", "stolen")
    assert revoked.stdout.startswith("box-1 is revoked since ")
    assert fleet.states() == {"box-1": "revoked"}
    assert appliance("enrol", "--hub", fleet.url, "--state-dir", box).returncode == 29
    assert appliance("enrol", "--token", token, "--state-dir", box).returncode == 2


def test_a_stick_carries_the_request_and_a_person_compares(fleet: Fleet) -> None:
    box, stick = fleet.node("box-1"), fleet.folder / "stick"
    stick.mkdir()
    assert fleet.hub("enrol", "import", stick).returncode == 9
    exported = appliance("enrol", "export", stick, "--state-dir", box)
    fingerprint = exported.stdout.splitlines()[1].removeprefix("  fingerprint: ")
    asked = fleet.hub("enrol", "import", stick, typed="n\n")
    assert f"  {fingerprint}\n" in asked.stdout
    assert asked.returncode == 2
    assert not (stick / "dn").exists()
    wrong = fleet.hub("enrol", "import", stick, "--fingerprint", "0000 " * 8)
    assert wrong.returncode == 28
    approved = fleet.hub("enrol", "import", stick, "--site", "hall 4", typed="y\n")
    assert approved.returncode == 0, approved.stderr
    back = appliance("enrol", "import", stick, "--state-dir", box)
    assert back.returncode == 9, "nobody told this node whose certificates count"
    ca = said(fleet_ca(fleet))["hash"]
    back = appliance("enrol", "import", stick, "--ca", ca, "--state-dir", box)
    assert back.returncode == 0, back.stderr
    assert (box / "identity" / "tls.pem").exists()
    once_more = said(fleet.hub("enrol", "import", stick, "--json"))
    assert once_more["nodes"] == [{"node": "box-1", "fingerprint": fingerprint, "refused": None}], (
        "a known key needs nobody"
    )


def test_a_new_machine_takes_the_name_of_an_old_one(fleet: Fleet) -> None:
    old = fleet.node("box-1")
    token = fleet.hub("token", "box-1").stdout.splitlines()[0]
    appliance("enrol", "--hub", fleet.url, "--token", token, "--state-dir", old)
    new = fleet.folder / "new"
    identity.create(new, NodeId("box-1"), fleet.root)
    (new / "reserve").unlink()
    done = fleet.hub("replace", "box-1", "--key", new / "identity" / "node.json")
    assert done.returncode == 0, done.stderr
    assert appliance("enrol", "--hub", fleet.url, "--state-dir", old).returncode == 29
    ca = said(fleet_ca(fleet))["hash"]
    assert len(ca) == 64
    stranger = fleet.folder / "stranger"
    identity.create(stranger, NodeId("box-1"), fleet.root)
    (stranger / "reserve").unlink()
    refused = appliance("enrol", "--hub", fleet.url, "--ca", ca, "--state-dir", stranger)
    assert refused.returncode == 28
    assert "error[scope]: box-1 is known by another key" in refused.stderr
    assert "try: give this machine another name" in refused.stderr
    taken = appliance("enrol", "--hub", fleet.url, "--state-dir", new)
    assert taken.returncode == 9, "its first certificate needs the authority's hash"
    taken = appliance("enrol", "--hub", fleet.url, "--ca", ca, "--state-dir", new)
    assert taken.returncode == 0, taken.stderr


def test_a_new_authority_is_in_force_in_a_hub_that_runs(fleet: Fleet) -> None:
    state = ("--state-dir", fleet.folder / "hub")
    old = said(fleet_ca(fleet))["hash"]
    made = appliance("hub", "ca", "--new", *state)
    assert "next: keys name-ca with this one alone" in made.stdout
    new = said(fleet_ca(fleet))["hash"]
    assert new != old
    box, broker = fleet.node("box-1"), fleet.folder / "broker"
    token = fleet.hub("token", "box-1").stdout.splitlines()[0]
    assert EnrolmentToken.parse(token).authority == new
    done = appliance("enrol", "--hub", fleet.url, "--token", token, "--state-dir", box)
    assert done.returncode == 0, done.stderr
    serial = Chain.parse((box / "identity" / "tls.pem").read_bytes()).own.serial_number
    assert fleet.hub("revoke", "box-1", "--why", "stolen").returncode == 0
    assert appliance("hub", "broker-cert", broker, "--host", "b", *state).returncode == 0
    ca = x509.load_pem_x509_certificate((broker / "hub-ca.pem").read_bytes())
    crl = x509.load_pem_x509_crl((broker / "revoked.pem").read_bytes())
    assert authority_hash(ca) == new
    assert crl.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    assert crl.get_revoked_certificate_by_serial_number(serial) is not None
    told = fleet.hub("command", "box-1", "restart-engine", "--arg", "deployment=notes")
    assert told.returncode == 29
    assert "error[revoked]: box-1 was revoked" in told.stderr
    assert fleet.hub("sync", "export", broker, "--node", "box-1").returncode == 29
    assert not (broker / "dn").exists()


def fleet_ca(fleet: Fleet) -> subprocess.CompletedProcess[str]:
    return appliance("hub", "ca", "--json", "--state-dir", fleet.folder / "hub")
