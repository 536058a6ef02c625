"""What has expired is not believed, but still protects from what is older."""

from tests.conformance.conftest import Runner
from tests.conformance.repository import DAY, NOW, TOP, Repository

PAST = NOW - DAY


def test_root_expired(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.publish("root")
    assert client.refresh() == 0
    repo.root.expires = PAST
    repo.publish("root", "targets", "snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted() == {"root": 3, "timestamp": 1, "snapshot": 1, "targets": 1}
    repo.root.expires = NOW + DAY
    repo.publish("root")
    assert client.refresh() == 0
    assert client.trusted() == {"root": 4, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_timestamp_expired(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.role("timestamp").expires = PAST
    repo.publish("timestamp")
    assert client.refresh() == 1
    assert client.trusted() == dict.fromkeys(TOP, 1)


def test_snapshot_expired(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.role("snapshot").expires = PAST
    repo.publish("snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}


def test_targets_expired(client: Runner, repo: Repository) -> None:
    assert client.refresh() == 0
    repo.targets.expires = PAST
    repo.publish("targets", "snapshot", "timestamp")
    assert client.refresh() == 1
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}


def test_expired_metadata(client: Runner, repo: Repository) -> None:
    """The trusted timestamp has expired by the time that a newer one is met."""
    repo.role("timestamp").expires = NOW + 7 * DAY
    repo.publish("timestamp")
    assert client.refresh() == 0
    repo.role("timestamp").expires = NOW + 21 * DAY
    repo.publish("targets", "snapshot", "timestamp")
    assert client.refresh(NOW + 18 * DAY) == 0
    assert client.trusted() == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2}


def test_expired_local_timestamp(client: Runner, repo: Repository) -> None:
    """A repository that is frozen gives the same again until it has expired."""
    assert client.refresh() == 0
    assert client.refresh(NOW + 30 * DAY) == 1
    repo.role("timestamp").version = 0
    repo.publish("timestamp")
    assert client.refresh(NOW + 30 * DAY) == 1
    assert client.trusted() == dict.fromkeys(TOP, 1)


def delegated(repo: Repository, expires: int) -> None:
    """Publish a role that lists two targets and expires after so many days."""
    role = repo.delegate("targets", "delegated", ["it/*"])
    role.expires = NOW + expires * DAY
    for name in ("first", "second"):
        repo.add_target(f"it/{name}", name.encode(), role="delegated")
    repo.publish("delegated", "targets", "snapshot", "timestamp")


def test_delegated_targets_expired(client: Runner, repo: Repository) -> None:
    delegated(repo, -1)
    assert client.refresh() == 0
    assert client.download("it/first") == 1
    assert client.downloaded() == []
    assert client.trusted() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_expired_local_delegated_targets(client: Runner, repo: Repository) -> None:
    delegated(repo, 7)
    assert client.download("it/first") == 0
    assert client.download("it/second", now=NOW + 18 * DAY) == 1
    assert client.downloaded() == [b"first"]


def test_expired_local_delegated_targets_updates(client: Runner, repo: Repository) -> None:
    delegated(repo, 7)
    assert client.download("it/first") == 0
    repo.role("delegated").expires = NOW + 21 * DAY
    repo.publish("delegated", "snapshot", "timestamp")
    assert client.download("it/second", now=NOW + 18 * DAY) == 0
    assert client.downloaded() == [b"first", b"second"]
