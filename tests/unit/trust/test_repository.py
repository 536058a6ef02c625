"""The signing side: what it signs is what a node believes."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from appliance.core.ids import Digest
from appliance.errors import (
    ExpiredError,
    LockedError,
    MalformedError,
    NotFoundError,
    StateUnusableError,
    UsageError,
)
from appliance.kit.files import locked
from appliance.trust import metadata
from appliance.trust.documents import Director
from appliance.trust.metadata import RoleSet, Verified
from appliance.trust.repository import (
    DIRECTOR_PATH,
    LIFETIMES,
    NewTarget,
    Published,
    Repository,
    org_name,
)
from tests.helpers.signing import ISSUED, digest_of, new_key, reading

DAY = datetime.timedelta(days=1)
HUB = {"org": "acme", "epoch": 1, "director": new_key().public, "sync": new_key().public}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.init_solo(tmp_path / "keys", "acme", ISSUED)


def new_target(path: str, data: bytes = b"words") -> NewTarget:
    return NewTarget(path, Digest(digest_of(data)), len(data), "text/plain")


def verified(published: Published, now: datetime.datetime = ISSUED) -> Verified:
    newest = {
        role: max(
            (name for name in published.files if name.endswith(f".{role}.json")),
            key=lambda name: int(name.split(".")[0]),
        )
        for role in ("snapshot", "targets")
    }
    snapshot, targets = (published.files[name] for name in newest.values())
    roles = RoleSet(published.files["timestamp.json"], snapshot, targets)
    return metadata.refresh(published.files["1.root.json"], None, reading(roles), now)


def test_keys_are_for_their_owner_s_eyes_only(repository: Repository) -> None:
    assert repository.folder.stat().st_mode & 0o777 == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in repository.folder.glob("*.pem")}
    assert files == dict.fromkeys(
        ["root-1.pem", "root-2.pem", "targets-1.pem", "timestamp-1.pem"], 0o600
    )


def test_the_first_root_is_1_of_2_and_no_role_shares_a_key_with_it(repository: Repository) -> None:
    (path,) = repository.roots
    assert metadata.root_version(path.read_bytes()) == 1
    root = Metadata[Root].from_file(str(path)).signed
    keys = {name: set(role.keyids) for name, role in root.roles.items()}
    assert [(len(keys[name]), root.roles[name].threshold) for name in sorted(keys)] == [
        (2, 1), (1, 1), (1, 1), (1, 1),
    ]  # fmt: skip
    assert keys["snapshot"] == keys["targets"]
    assert not keys["root"] & (keys["targets"] | keys["timestamp"])
    assert not keys["targets"] & keys["timestamp"]


def test_keys_are_made_once(repository: Repository) -> None:
    before = {path: path.read_bytes() for path in repository.folder.rglob("*.pem")}
    with pytest.raises(StateUnusableError, match="holds an organisation's keys already"):
        Repository.init_solo(repository.folder, "other", ISSUED)
    assert {path: path.read_bytes() for path in repository.folder.rglob("*.pem")} == before
    assert Repository(repository.folder).org == "acme"


def test_a_folder_without_keys_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no organisation's keys") as caught:
        _ = Repository(tmp_path).org
    assert caught.value.hint is not None
    assert f"appliance keys init {tmp_path}" in caught.value.hint
    assert f"appliance keys adopt {tmp_path} 1.root.json" in caught.value.hint


def test_what_is_published_is_believed_until_it_expires(repository: Repository) -> None:
    published = repository.publish([new_target("a"), new_target("b")], ISSUED)
    found = verified(published, ISSUED + LIFETIMES["timestamp"] - DAY)
    assert sorted(found.targets) == ["a", "b"]
    assert found.targets["a"].media_type == "text/plain"
    assert found.issued == ISSUED
    with pytest.raises(ExpiredError, match="timestamp has expired"):
        verified(published, ISSUED + LIFETIMES["timestamp"])


def test_what_was_approved_stays_approved_and_versions_rise(repository: Repository) -> None:
    first = repository.publish([new_target("a"), new_target("b")], ISSUED)
    second = Repository(repository.folder).publish([new_target("b", b"new")], ISSUED + DAY)
    found = verified(second)
    assert sorted(found.targets) == ["a", "b"]
    assert found.targets["b"].digest == digest_of(b"new")
    assert found.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    assert sorted(second.files) == [
        "1.root.json", "2.snapshot.json", "2.targets.json", "timestamp.json",
    ]  # fmt: skip
    stored = verified(first).roles
    root, offered = second.files["1.root.json"], reading(found.roles)
    assert metadata.refresh(root, stored, offered, ISSUED).is_new


def test_a_key_that_lies_elsewhere_is_asked_for(repository: Repository) -> None:
    shutil.move(repository.folder / "targets-1.pem", repository.folder.parent)
    with pytest.raises(NotFoundError, match=r"no key at .*targets-1\.pem"):
        repository.publish([new_target("a")], ISSUED)


def test_another_hub_begins_a_new_epoch_and_the_same_does_not(repository: Repository) -> None:
    other = {**HUB, "sync": new_key().public}
    assert repository.name_director(HUB) == 1
    assert repository.name_director(HUB) == 1
    with pytest.raises(UsageError, match="1 is in force for another") as caught:
        repository.name_director(other)
    assert "raise-epoch 2" in str(caught.value.hint)
    assert repository.name_director({**other, "epoch": 2}) == 2
    assert repository.name_director({**HUB, "epoch": 3}) == 3
    published = repository.publish([], ISSUED)
    document = published.documents[DIRECTOR_PATH]
    found = Director.parse(document)
    assert (found.org, found.epoch) == ("acme", 3)
    assert [*found.keys, *found.sync_keys] == [HUB["director"], HUB["sync"]]
    assert verified(published).targets[DIRECTOR_PATH].digest == digest_of(document)


def test_what_names_no_hub_of_ours_changes_nothing(repository: Repository) -> None:
    with pytest.raises(UsageError, match="that hub is of 'other'"):
        repository.name_director({**HUB, "org": "other"})
    for change in ({"director": "ab"}, {"sync": None}, {"epoch": "1"}):
        with pytest.raises(MalformedError):
            repository.name_director({**HUB, **change})
    assert not (repository.folder / "director.json").exists()
    assert dict(repository.publish([], ISSUED).documents) == {}


def test_a_director_that_was_taken_back_is_listed_no_more(repository: Repository) -> None:
    repository.name_director(HUB)
    assert DIRECTOR_PATH in verified(repository.publish([], ISSUED)).targets
    (repository.folder / "director.json").unlink()
    published = repository.publish([], ISSUED)
    assert not published.documents
    assert DIRECTOR_PATH not in verified(published).targets


def test_one_signs_at_a_time(repository: Repository) -> None:
    with (
        locked(repository.folder / ".lock", what="it"),
        pytest.raises(LockedError, match="the keys folder"),
    ):
        repository.publish([], ISSUED)
    assert repository.publish([], ISSUED).files


def test_an_organisation_s_name_is_a_plain_word() -> None:
    assert org_name("acme-2") == "acme-2"
    for text in ("", "Acme", "-a", "a" * 64, "a\n", "a/b"):
        with pytest.raises(UsageError, match="is not an organisation's name"):
            org_name(text)


def test_metadata_is_readable_by_people(repository: Repository) -> None:
    found = json.loads(repository.publish([new_target("a")], ISSUED).files["1.targets.json"])
    assert found["signed"]["x-issued"] == "2026-12-01T00:00:00.000Z"
    assert found["signed"]["expires"] == "2028-11-30T00:00:00Z"
