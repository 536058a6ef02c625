"""What every refresh does: what is asked for, in which order, and what of it is kept."""

import json
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from tests.conformance.conftest import Runner
from tests.conformance.repository import DAY, NOW, TOP, Repository

FIRST = ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]


def test_basic_refresh_requests(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    assert repo.metadata_asked() == FIRST


def test_basic_refresh_trusted_data(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    assert {role: client.kept(role) for role in TOP} == {role: repo.served(role) for role in TOP}


def test_implicit_refresh(client: Runner, repo: Repository) -> None:
    assert client.download("nobody listed it") == 1
    assert repo.metadata_asked() == FIRST
    assert client.trusted() == dict.fromkeys(TOP, 1)


def spoilt(root: bytes, change: str) -> bytes:
    found = json.loads(root)
    if change == "no version":
        del found["signed"]["version"]
    else:
        found["signatures"][0]["sig"] = "ab" * 64
    return json.dumps(found).encode()


@pytest.mark.parametrize("change", ["no version", "no signature"])
def test_invalid_and_unsigned_initial_root(client: Runner, repo: Repository, change: str) -> None:
    client.init(spoilt(repo.served("root"), change))
    assert client.refresh() == 1
    assert repo.asked == []


@pytest.mark.parametrize("role", TOP)
def test_unsigned_metadata(client: Runner, repo: Repository, role: str) -> None:
    repo.keys[role].clear()
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() == 1
    before = dict.fromkeys(TOP[: TOP.index(role)], 2)
    assert client.trusted() == (before or {"root": 1})


@pytest.mark.parametrize("role", ["root", "snapshot", "targets"])
def test_url_and_metadata_version_mismatch(client: Runner, repo: Repository, role: str) -> None:
    repo.publish("root", "targets", "snapshot", "timestamp")
    named = repo.file(role)
    repo.role(role).version += 1
    repo.files[f"metadata/{named}"] = repo.signed(role)
    assert client.refresh() == 1
    before = dict.fromkeys(TOP[: TOP.index(role)], 2)
    assert client.trusted() == (before or {"root": 1})


def test_timestamp_content_changes(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    good = client.kept("timestamp")
    repo.publish("timestamp", bump=False, edit=lambda t: setattr(t.snapshot_meta, "version", 100))
    assert client.refresh() == 0
    assert client.kept("timestamp") == good
    assert repo.asked[-1] == "metadata/timestamp.json"


def test_basic_metadata_hash_support(client: Runner, repo: Repository) -> None:
    repo.with_hashes = True
    repo.publish("targets", "snapshot", "timestamp")
    assert client.refresh() == 0
    repo.publish("targets")
    wrong = {"sha256": "ab" * 32}
    repo.publish("snapshot", edit=lambda s: setattr(s.meta["targets.json"], "hashes", wrong))
    repo.publish("timestamp")
    assert client.refresh() == 1
    assert (client.trusted()["snapshot"], client.trusted()["targets"]) == (3, 2)


def test_metadata_bytes_match(client: Runner, repo: Repository) -> None:
    data = repo.served("timestamp") + b" "
    repo.serve("timestamp", data)
    assert client.refresh() == 0
    assert client.kept("timestamp") == data


def test_custom_fields(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    key = CryptoSigner.generate_ed25519()
    key.public_key.unrecognized_fields["more"] = {"a": [1, {"b": None}]}
    repo.add_key("root", key)
    repo.root.unrecognized_fields["of a later release"] = "é"
    repo.root.roles["root"].unrecognized_fields["another"] = 1
    repo.publish("root")
    assert client.refresh() == 0
    assert client.trusted()["root"] == 2


def test_deprecated_keyid_hash_algorithms(client: Runner, repo: Repository) -> None:
    repo.rotate("snapshot")
    key = repo.keys["snapshot"][0]
    key.public_key.unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    repo.publish("root", "snapshot", "timestamp")
    assert client.refresh() == 0
    assert client.trusted()["snapshot"] == 2


def raise_version(role: str) -> Any:
    def edit(part: Any) -> None:
        meta = part.snapshot_meta if role == "snapshot" else part.meta["targets.json"]
        meta.version += 1

    return edit


def test_snapshot_404(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.publish("timestamp", edit=raise_version("snapshot"))
    assert client.refresh() == 1
    assert repo.asked[-1] == "metadata/2.snapshot.json"
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}


def test_targets_404(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.publish("snapshot", edit=raise_version("targets"))
    repo.publish("timestamp")
    assert client.refresh() == 1
    assert repo.asked[-1] == "metadata/2.targets.json"
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}


def test_timestamp_404(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    del repo.files["metadata/timestamp.json"]
    assert client.refresh() == 1
    assert repo.asked[-1] == "metadata/timestamp.json"
    assert client.trusted() == dict.fromkeys(TOP, 1)


def test_incorrect_metadata_type(client: Runner, repo: Repository) -> None:
    """A snapshot that is signed by the timestamp's key and reads like a timestamp is none."""
    repo.add_key("snapshot", repo.keys["timestamp"][0])
    repo.publish("root")
    repo.publish("snapshot", edit=lambda s: setattr(s, "meta", {"snapshot.json": MetaFile(1)}))
    repo.serve("timestamp", repo.served("snapshot"))
    assert client.refresh() == 1
    assert client.trusted() == {"root": 2}


def test_faketime(client: Runner, repo: Repository) -> None:
    repo.root.expires = NOW + 7 * DAY
    repo.publish("root")
    assert client.refresh() == 0
    assert client.refresh(NOW + 8 * DAY) == 1


def test_names_without_versions(client: Runner, repo: Repository) -> None:
    """A root may say that no file but its own carries its version."""
    repo.root.consistent_snapshot = False
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() == 0
    assert repo.metadata_asked()[2:] == ["timestamp.json", "snapshot.json", "targets.json"]
    repo.files["targets/a/b.txt"] = b"bytes"
    repo.add_target("a/b.txt", b"bytes")
    repo.publish("targets", "snapshot", "timestamp")
    assert client.download("a/b.txt") == 0
    assert client.downloaded() == [b"bytes"]


def test_endless_data(client: Runner, repo: Repository) -> None:
    repo.serve("timestamp", repo.served("timestamp") + b" " * (64 << 10))
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1}
