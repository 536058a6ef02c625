"""No version goes down, until new keys begin anew."""

import pytest

from tests.conformance.conftest import Runner
from tests.conformance.repository import Repository

ALL = ("targets", "snapshot", "timestamp")
BOTH = pytest.mark.parametrize("with_hashes", [False, True])


def test_simple_snapshot_rollback(client: Runner, repo: Repository) -> None:
    """The timestamp still names the snapshot that the client has: it asks for no other."""
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 0
    repo.role("snapshot").version = 1
    repo.publish("snapshot", bump=False)
    assert client.refresh() == 0
    assert client.trusted()["snapshot"] == 2
    assert repo.asked[-1] == "metadata/timestamp.json"


def test_new_timestamp_version_rollback(client: Runner, repo: Repository) -> None:
    repo.publish("timestamp")
    assert client.refresh() == 0
    repo.role("timestamp").version = 1
    repo.publish("timestamp", bump=False)
    assert client.refresh() == 1
    assert client.trusted()["timestamp"] == 2
    assert repo.asked[-1] == "metadata/timestamp.json"


@BOTH
def test_snapshot_rollback(client: Runner, repo: Repository, *, with_hashes: bool) -> None:
    repo.with_hashes = with_hashes
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 0
    repo.role("snapshot").version = 1
    repo.publish("snapshot", bump=False)
    repo.publish("timestamp")
    assert client.refresh() == 1
    assert (client.trusted()["timestamp"], client.trusted()["snapshot"]) == (2, 2)
    assert repo.asked[-1] == "metadata/timestamp.json"


@BOTH
def test_targets_rollback(client: Runner, repo: Repository, *, with_hashes: bool) -> None:
    repo.with_hashes = with_hashes
    repo.publish(*ALL)
    assert client.refresh() == 0
    repo.targets.version = 1
    repo.publish("targets", bump=False)
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert (client.trusted()["snapshot"], client.trusted()["targets"]) == (2, 2)


@BOTH
def test_delegated_rollback(client: Runner, repo: Repository, *, with_hashes: bool) -> None:
    repo.with_hashes = with_hashes
    repo.delegate("targets", "delegated")
    repo.publish("delegated", *ALL)
    repo.publish("delegated", *ALL)
    assert client.download("nothing") == 1
    repo.role("delegated").version = 1
    repo.publish("delegated", bump=False)
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert (client.trusted()["snapshot"], client.trusted()["delegated"]) == (3, 2)


def test_new_targets_fast_forward_recovery(client: Runner, repo: Repository) -> None:
    """New keys of the snapshot may name older targets."""
    repo.targets.version = 99_999
    repo.publish(*ALL)
    assert client.refresh() == 0
    repo.rotate("snapshot")
    repo.targets.version = 1
    repo.publish("root", *ALL)
    assert client.refresh() == 0
    assert client.trusted()["targets"] == 2


def test_new_snapshot_fast_forward_recovery(client: Runner, repo: Repository) -> None:
    repo.role("snapshot").version = 99_999
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 0
    repo.rotate("snapshot")
    repo.rotate("timestamp")
    repo.role("snapshot").version = 1
    repo.publish("root", *ALL)
    assert client.refresh() == 0
    assert client.trusted()["snapshot"] == 2


def test_new_timestamp_fast_forward_recovery(client: Runner, repo: Repository) -> None:
    repo.role("timestamp").version = 99_999
    repo.publish("timestamp")
    assert client.refresh() == 0
    repo.rotate("timestamp")
    repo.role("timestamp").version = 1
    repo.publish("root", *ALL)
    assert client.refresh() == 0
    assert client.trusted()["timestamp"] == 2


def test_new_snapshot_version_mismatch(client: Runner, repo: Repository) -> None:
    """A snapshot that no timestamp names is not met."""
    repo.publish("timestamp")
    repo.publish("snapshot")
    assert client.refresh() == 0
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}


def test_new_targets_version_mismatch(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.publish("targets")
    assert client.refresh() == 0
    assert client.trusted()["targets"] == 1
    assert repo.asked[-1] == "metadata/timestamp.json"


@BOTH
def test_a_role_never_vanishes_from_the_snapshot(
    client: Runner, repo: Repository, *, with_hashes: bool
) -> None:
    repo.with_hashes = with_hashes
    repo.delegate("targets", "delegated")
    repo.publish("delegated", *ALL)
    assert client.refresh() == 0
    repo.publish("snapshot", edit=lambda s: s.meta.pop("delegated.json"))
    repo.publish("timestamp")
    assert client.refresh() == 1
    assert client.trusted()["snapshot"] == 2
