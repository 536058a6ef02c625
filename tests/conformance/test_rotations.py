"""Keys that change: each root is signed by the keys before and by its own."""

from dataclasses import dataclass

import pytest
from securesystemslib.signer import CryptoSigner

from tests.conformance.conftest import Runner
from tests.conformance.repository import Repository

KEYS = [CryptoSigner.generate_ed25519() for _ in range(10)]


@dataclass(frozen=True)
class Signed:
    """Which keys a role has, how many must sign, and which do."""

    keys: list[int]
    threshold: int
    by: list[int]

    def write(self, repo: Repository, role: str) -> None:
        found = repo.root.roles[role]
        found.keyids.clear()
        found.threshold = self.threshold
        repo.keys[role].clear()
        for number in self.keys:
            repo.root.add_key(KEYS[number].public_key, role)
        repo.keys[role].extend(KEYS[number] for number in self.by)


FIVE, NEW = [0, 1, 2, 3, 4], [0, 1, 3, 4, 5]
GOOD = {
    "1 of 1": [Signed([1], 1, [1]), Signed([2], 1, [2, 1]), Signed([2], 1, [2])],
    "1 of 1, strangers sign too": [
        Signed([1], 1, [3, 1, 4]), Signed([2], 1, [3, 2, 1, 4]), Signed([2], 1, [3, 2, 4]),
    ],
    "3 of 5, always others": [
        Signed(FIVE, 3, [0, 2, 4]), Signed(FIVE, 3, [0, 4, 1]), Signed(FIVE, 3, [0, 1, 3]),
    ],
    "3 of 5, one is new": [Signed(FIVE, 3, [0, 2, 4]), Signed(NEW, 3, [0, 4, 1])],
    "3 of 5, one is new and signs a step later": [
        Signed(FIVE, 3, [0, 2, 4]), Signed(NEW, 3, [0, 2, 4, 5]), Signed(NEW, 3, [0, 4, 5]),
    ],
    "3 of 5, all are new": [
        Signed(FIVE, 3, [0, 2, 4]),
        Signed([5, 6, 7, 8, 9], 3, [0, 2, 4, 5, 6, 7]),
        Signed([5, 6, 7, 8, 9], 3, [5, 6, 7]),
    ],
    "1 of 3 becomes 2 of 3": [Signed([1, 2, 3], 1, [1]), Signed([1, 2, 3], 2, [1, 2])],
    "2 of 3 becomes 1 of 3": [
        Signed([1, 2, 3], 2, [1, 2]), Signed([1, 2, 3], 1, [1, 2]), Signed([1, 2, 3], 1, [1]),
    ],
    "1 of 1 becomes 2 of 2": [Signed([1], 1, [1]), Signed([1, 2], 2, [1, 2])],
}  # fmt: skip
BAD = {
    "the old key did not sign": [Signed([1], 1, [1]), Signed([2], 1, [2, 3, 4])],
    "the new key did not sign": [Signed([1], 1, [1]), Signed([2], 1, [1, 3, 4])],
    "3 of 5, two of the new": [Signed(FIVE, 3, [0, 2, 4]), Signed(NEW, 3, [0, 2, 4])],
    "3 of 5, two of the old": [Signed(FIVE, 3, [0, 2, 4]), Signed(NEW, 3, [0, 4, 5])],
    "the new threshold is not met": [Signed([1, 2, 3], 1, [1]), Signed([1, 2, 3], 2, [2])],
    "the old threshold is not met": [Signed([1, 2, 3], 2, [1, 2]), Signed([1, 2, 3], 1, [1])],
}


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_root_rotation(client: Runner, repo: Repository, name: str) -> None:
    steps = {**GOOD, **BAD}[name]
    del repo.files["metadata/1.root.json"]
    for step in steps:
        step.write(repo, "root")
        repo.publish("root")
    assert client.init(repo.served("root", 1)) == 0
    last = len(steps) if name in GOOD else len(steps) - 1
    assert client.refresh() == (0 if name in GOOD else 1)
    assert client.kept("root") == repo.served("root", last)


SIGNED = {
    "1 of 1": (Signed([2], 1, [2]), True),
    "1 of 1, strangers sign too": (Signed([1], 1, [3, 1, 4]), True),
    "1 of 1, by the old key": (Signed([2], 1, [1, 3, 4]), False),
    "3 of 5, one is another's": (Signed(NEW, 3, [0, 2, 4]), False),
    "3 of 5, two": (Signed(NEW, 3, [0, 4]), False),
    "3 of 5, first": (Signed(FIVE, 3, [0, 2, 4]), True),
    "3 of 5, second": (Signed(FIVE, 3, [0, 4, 1]), True),
    "3 of 5, third": (Signed(FIVE, 3, [0, 1, 3]), True),
    "3 of 5, fourth": (Signed(FIVE, 3, [1, 2, 3]), True),
    "3 of 5, fifth": (Signed(FIVE, 3, [2, 3, 4]), True),
}


@pytest.mark.parametrize("name", SIGNED)
def test_non_root_rotations(client: Runner, repo: Repository, name: str) -> None:
    signed, holds = SIGNED[name]
    for role in ("timestamp", "snapshot", "targets"):
        signed.write(repo, role)
        repo.publish("root", "targets", "snapshot", "timestamp")
        assert client.refresh() == (0 if holds else 1)
        if not holds:
            assert role not in client.trusted()
            Signed([9], 1, [9]).write(repo, role)
            continue
        assert client.kept(role) == repo.served(role)


def test_at_most_256_roots_in_one_refresh(client: Runner, repo: Repository) -> None:
    for _ in range(260):
        repo.publish("root")
    assert client.refresh() == 0
    assert client.trusted()["root"] == 257
    assert client.refresh() == 0
    assert client.trusted()["root"] == 261
