"""Signatures, thresholds and kinds of keys."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from tests.conformance.conftest import Runner
from tests.conformance.repository import Repository

ALL = ("root", "targets", "snapshot", "timestamp")


def change(repo: Repository, role: str, edit: Callable[[Any], object]) -> None:
    """Change a published file as JSON, under its old signatures."""
    found = json.loads(repo.served(role))
    edit(found)
    repo.serve(role, json.dumps(found).encode())


def test_snapshot_does_not_meet_threshold(client: Runner, repo: Repository) -> None:
    for _ in range(2):
        repo.add_key("snapshot")
    repo.root.roles["snapshot"].threshold = 3
    repo.publish(*ALL)
    assert client.refresh() == 0
    repo.keys["snapshot"].pop()
    repo.publish("targets", "snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted()["snapshot"] == 2


def test_snapshot_has_too_few_keys(client: Runner, repo: Repository) -> None:
    for _ in range(4):
        repo.add_key("snapshot")
    repo.root.roles["snapshot"].threshold = 6
    repo.publish("root", "snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted() == {"root": 2, "timestamp": 2}


def test_duplicate_keys(client: Runner, repo: Repository) -> None:
    """One key that is listed and signs many times over is one key."""
    key = repo.add_key("snapshot").public_key.keyid
    role = repo.root.roles["snapshot"]
    role.threshold = 6
    role.keyids.extend([key] * 8)
    repo.publish("root", "snapshot", "timestamp")

    def again(found: Any) -> None:
        (sig,) = (s for s in found["signatures"] if s["keyid"] == key)
        found["signatures"].extend([sig] * 8)

    change(repo, "snapshot", again)
    assert client.refresh() == 1
    assert "snapshot" not in client.trusted()


def test_duplicate_sig_keyids(client: Runner, repo: Repository) -> None:
    change(repo, "snapshot", lambda found: found["signatures"].extend(found["signatures"]))
    assert client.refresh() == 1
    assert "snapshot" not in client.trusted()


KINDS: dict[str, Callable[[], CryptoSigner]] = {
    "rsa/rsassa-pss-sha256": CryptoSigner.generate_rsa,
    "rsa/rsa-pkcs1v15-sha256": lambda: CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
    "ecdsa/ecdsa-sha2-nistp256": CryptoSigner.generate_ecdsa,
    "ed25519/ed25519": CryptoSigner.generate_ed25519,
}


@pytest.mark.parametrize("kind", KINDS)
def test_keytype_and_scheme(client: Runner, repo: Repository, kind: str) -> None:
    key = repo.add_key("root", KINDS[kind]())
    repo.root.roles["root"].threshold = 2
    repo.publish("root")
    good = Metadata[Any].from_bytes(repo.served("root")).signatures[key.public_key.keyid].signature
    assert client.refresh() == 0
    assert client.trusted()["root"] == 2
    repo.publish("root")

    def of_another_version(found: Any) -> None:
        (sig,) = (s for s in found["signatures"] if s["keyid"] == key.public_key.keyid)
        sig["sig"] = good

    change(repo, "root", of_another_version)
    assert client.refresh() == 1
    assert client.trusted()["root"] == 2


@pytest.mark.parametrize("junk", ["", "ab" * 64, "not hex"])
def test_invalid_sig_in_valid_metadata(client: Runner, repo: Repository, junk: str) -> None:
    """One signature that holds is enough where one is asked for."""
    other = repo.add_key("timestamp").public_key.keyid
    repo.publish("root", "timestamp")

    def spoil(found: Any) -> None:
        (sig,) = (s for s in found["signatures"] if s["keyid"] == other)
        sig["sig"] = junk

    change(repo, "timestamp", spoil)
    assert client.refresh() == 0
    assert client.trusted()["timestamp"] == 2


def test_root_has_keys_but_not_snapshot(client: Runner, repo: Repository) -> None:
    """A key that root lists for a role does not sign for it by being listed."""
    assert client.refresh() == 0
    repo.add_key("snapshot")
    repo.keys["snapshot"].pop()
    repo.root.roles["snapshot"].threshold = 2
    repo.publish(*ALL)
    assert client.refresh() == 1
    assert client.trusted() == {"root": 2, "timestamp": 2, "snapshot": 1, "targets": 1}


def test_a_key_of_another_role_does_not_count(client: Runner, repo: Repository) -> None:
    repo.keys["snapshot"] = copy.copy(repo.keys["timestamp"])
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 2}
