"""The root chain: who may sign what, and how that changes."""

import datetime
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from appliance.errors import (
    DowngradeError,
    EquivocationError,
    MalformedError,
    NotFoundError,
    ScopeError,
    SignatureError,
    StateUnusableError,
    UsageError,
)
from appliance.trust import arrivals, metadata, passing, rotation, signing
from appliance.trust.keys import Keyring, PublicKey, create_pair
from appliance.trust.repository import Repository
from appliance.trust.rotation import Arrangement, Rotation
from tests.helpers.signing import ISSUED, reading
from tests.unit.trust.test_repository import new_target, verified

DAY = datetime.timedelta(days=1)


@pytest.fixture
def solo(tmp_path: Path) -> Repository:
    return Repository.init_solo(tmp_path / "keys", "acme", ISSUED)


def pair(folder: Path, name: str) -> PublicKey:
    folder.mkdir(exist_ok=True)
    return create_pair(folder / f"{name}.pem")


def arrangement(folder: Path) -> Arrangement:
    names = {"root": ["a", "b", "c"], "targets": ["d", "e"], "timestamp": ["t"]}
    keys = {role: [pair(folder, name) for name in held] for role, held in names.items()}
    return Arrangement(keys, {"root": 2, "targets": 2})


def sign(path: Path, folder: Path, *names: str) -> None:
    keyring = Keyring([folder / f"{name}.pem" for name in names])
    passing.read(path, None, keyring.halves).sign(keyring)


def founded(tmp_path: Path) -> tuple[Repository, Path]:
    people = tmp_path / "people"
    drafted = arrivals.init(tmp_path / "keys", "acme", arrangement(people), ISSUED)
    sign(drafted.path, people, "a", "c")
    repository = Repository(tmp_path / "keys")
    arrivals.adopt_root(repository, drafted.path.read_bytes())
    return repository, people


# --- the first root -------------------------------------------------------------------------------


def test_a_first_root_is_in_force_when_enough_have_signed(tmp_path: Path) -> None:
    people = tmp_path / "people"
    drafted = arrivals.init(tmp_path / "keys", "acme", arrangement(people), ISSUED)
    repository = Repository(tmp_path / "keys")
    assert not drafted.in_force
    with pytest.raises(NotFoundError, match=r"the first root .* lacks signatures"):
        repository.publish([], ISSUED)
    sign(drafted.path, people, "a")
    with pytest.raises(SignatureError):
        arrivals.adopt_root(repository, drafted.path.read_bytes())
    assert repository.roots == []
    sign(drafted.path, people, "b")
    data = drafted.path.read_bytes()
    assert arrivals.adopt_root(repository, data) == (1, True)
    assert arrivals.adopt_root(repository, data) == (1, False)
    assert metadata.root_version(repository.roots[0].read_bytes()) == 1
    assert not drafted.path.exists()
    root = Metadata[Root].from_bytes(data).signed
    assert rotation.org_of(root) == "acme"
    assert not rotation.is_solo(root)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"root": ["a", "a", "b"]}, "is given twice"),
        ({"targets": ["a", "d"]}, "is given twice"),
        ({"timestamp": ["d"]}, "is given twice"),
        ({"timestamp": []}, "timestamp cannot need 1 of 0"),
        ({"root": ["a"]}, "root cannot need 2 of 1"),
    ],
)
def test_every_person_holds_one_key_and_every_key_one_role(
    tmp_path: Path, change: dict[str, list[str]], why: str
) -> None:
    names = {"root": ["a", "b", "c"], "targets": ["d", "e"], "timestamp": ["t"]}
    held = {name: pair(tmp_path / "people", name) for name in "abcdet"}
    keys = {role: [held[n] for n in each] for role, each in {**names, **change}.items()}
    with pytest.raises((MalformedError, UsageError), match=why):
        arrivals.init(
            tmp_path / "keys", "acme", Arrangement(keys, {"root": 2, "targets": 2}), ISSUED
        )
    assert not (tmp_path / "keys").exists()


def test_one_key_under_two_ids_or_names_is_one_key(tmp_path: Path) -> None:
    key = pair(tmp_path / "people", "a")
    with pytest.raises(MalformedError, match="is given twice"):
        rotation.first_root(
            "acme", Arrangement({"root": [key, PublicKey("other", key.public)]}, {}), ISSUED
        )
    repository = Repository.init_solo(tmp_path / "keys", "acme", ISSUED)
    root = repository.files.root
    (first, *_) = rotation.keys_of(root, "root")
    root.add_key(first, "timestamp")
    with pytest.raises(MalformedError, match="root-1 and root-1 are one and the same key"):
        rotation.check(root)
    root = repository.files.root
    twin = signing.tuf_key(PublicKey("twin", signing.public_of(first)))
    twin.keyid = "ab" * 32
    root.add_key(twin, "root")
    with pytest.raises(MalformedError, match="root-1 and twin are one and the same key"):
        rotation.check(root)


def test_a_threshold_is_met_by_distinct_keys_alone(tmp_path: Path) -> None:
    key = signing.tuf_key(pair(tmp_path / "people", "a"))
    twin = signing.tuf_key(PublicKey("twin", signing.public_of(key)))
    twin.keyid = "ab" * 32
    part = rotation.first_root("acme", arrangement(tmp_path / "more"), ISSUED)
    signers = signing.Signers("root", 2, (key, twin))
    signing.add_signatures(part, signers, Keyring([tmp_path / "people" / "a.pem"]))
    assert len(part.signatures) == 2
    assert signing.standing("it", part, signers).missing == 1


# --- the next ones --------------------------------------------------------------------------------


def test_the_next_root_needs_the_old_threshold_and_its_own(tmp_path: Path) -> None:
    repository, people = founded(tmp_path)
    new = [pair(people, "x"), pair(people, "y")]
    drafted = arrivals.rotate(repository, Rotation({"root": new}, {"root": ["a", "b"]}), ISSUED)
    assert [(each.threshold, each.missing) for each in drafted.standings] == [(2, 2), (2, 2)]
    with pytest.raises(StateUnusableError, match=r"2\.root\.json still lacks signatures"):
        arrivals.rotate(repository, Rotation({}, {"root": ["c"]}), ISSUED)
    for names in (["x", "y"], ["a"]):
        sign(drafted.path, people, *names)
        with pytest.raises(SignatureError):
            arrivals.adopt_root(repository, drafted.path.read_bytes())
    sign(drafted.path, people, "c")
    assert arrivals.adopt_root(repository, drafted.path.read_bytes()) == (2, True)
    chain = {path.name: path.read_bytes() for path in repository.roots}
    found = metadata.advance_root(chain["1.root.json"], lambda n: chain.get(f"{n}.root.json"))
    assert [version for version, _ in found] == [2]
    assert rotation.changes(None, repository.files.root)[0].startswith("root: 2 of 3: c (")


def test_a_stranger_does_not_sign_a_root_and_a_changed_one_is_seen(tmp_path: Path) -> None:
    repository, people = founded(tmp_path)
    drafted = arrivals.rotate(repository, Rotation(remove={"root": ["a"]}), ISSUED)
    with pytest.raises(ScopeError, match="these may: a, b, c"):
        sign(drafted.path, people, "d")
    sign(drafted.path, people, "b")
    text = drafted.path.read_text()
    drafted.path.write_text(text.replace('"threshold": 2', '"threshold": 1'))
    with pytest.raises(SignatureError, match="was changed after b signed it"):
        sign(drafted.path, people, "c")


def test_a_root_is_not_signed_without_the_one_before_it(tmp_path: Path) -> None:
    repository, people = founded(tmp_path)
    drafted = arrivals.rotate(repository, Rotation(remove={"root": ["a"]}), ISSUED)
    alone = tmp_path / "alone"
    alone.mkdir()
    path = drafted.path.rename(alone / drafted.path.name)
    with pytest.raises(NotFoundError, match=r"the keys of 1\.root\.json too") as caught:
        sign(path, people, "b")
    assert "--root FILE" in str(caught.value.hint)
    assert passing.read(path, repository.roots[0]).standings()[0].missing == 2


def test_one_person_replaces_every_key_alone(solo: Repository) -> None:
    solo.publish([new_target("a")], ISSUED)
    change = Rotation({"targets": [pair(solo.folder, "targets-2")]}, {"targets": ["targets-1"]})
    drafted = arrivals.rotate(solo, change, ISSUED + DAY)
    assert drafted.in_force
    published = solo.publish([new_target("b")], ISSUED + DAY)
    assert {"1.root.json", "2.root.json"} <= published.files.keys()
    root = published.files["2.root.json"]
    roles = verified_with(root, published)
    assert sorted(roles.targets) == ["a", "b"]
    with pytest.raises(SignatureError):
        verified(published)  # by the first root


def verified_with(root: bytes, published: object) -> metadata.Verified:
    from appliance.trust.metadata import RoleSet  # noqa: PLC0415

    files = dict(vars_of(published))
    newest = {
        role: max(
            (name for name in files if name.endswith(f".{role}.json")),
            key=lambda name: int(name.split(".")[0]),
        )
        for role in ("snapshot", "targets")
    }
    snapshot, targets = (files[name] for name in newest.values())
    roles = RoleSet(files["timestamp.json"], snapshot, targets)
    return metadata.refresh(root, None, reading(roles), ISSUED)


def vars_of(published: object) -> dict[str, bytes]:
    return dict(published.files)  # type: ignore[attr-defined]


def test_numbers_begin_again_when_a_thief_of_the_timestamp_key_ran_ahead(
    solo: Repository,
) -> None:
    first = solo.publish([new_target("a")], ISSUED)
    stamp = signing.read(first.files["timestamp.json"], "timestamp", "it")
    stamp.signed.version = 2**40
    stamp.signatures.clear()
    root = solo.files.root
    signing.add_signatures(
        stamp, signing.Signers.of(root, "timestamp"), Keyring.of_folder(solo.folder)
    )
    (solo.folder / "metadata" / "timestamp.json").write_bytes(signing.write(stamp))
    assert version_of(solo.publish([], ISSUED).files["timestamp.json"]) == 2**40 + 1
    change = Rotation(
        {"timestamp": [pair(solo.folder, "timestamp-2")]}, {"timestamp": ["timestamp-1"]}
    )
    arrivals.rotate(solo, change, ISSUED)
    published = solo.publish([], ISSUED)
    assert version_of(published.files["timestamp.json"]) == 1
    assert version_of(published.files["3.snapshot.json"]) == 3
    stored = verified(first).roles
    found = verified_with(published.files["2.root.json"], published)
    root_file, offered = published.files["2.root.json"], reading(found.roles)
    assert metadata.refresh(root_file, stored, offered, ISSUED).is_new


def version_of(data: bytes) -> int:
    return int(Metadata.from_bytes(data).signed.version)


def test_what_is_not_there_cannot_be_removed_nor_needed(solo: Repository) -> None:
    with pytest.raises(NotFoundError, match="root has no key called 'nobody'"):
        arrivals.rotate(solo, Rotation(remove={"root": ["nobody"]}), ISSUED)
    with pytest.raises(UsageError, match="targets cannot need 2 of 1"):
        arrivals.rotate(solo, Rotation(thresholds={"targets": 2}), ISSUED)
    with pytest.raises(UsageError, match="timestamp cannot need 1 of 0"):
        arrivals.rotate(solo, Rotation(remove={"timestamp": ["timestamp-1"]}), ISSUED)
    assert len(solo.roots) == 1


def test_a_root_of_another_chain_is_not_adopted(solo: Repository, tmp_path: Path) -> None:
    twin = Repository.init_solo(tmp_path / "twin", "acme", ISSUED)
    with pytest.raises(EquivocationError, match="is not the one that is trusted here"):
        arrivals.adopt_root(solo, twin.roots[0].read_bytes())
    other = Repository.init_solo(tmp_path / "other", "other", ISSUED)
    with pytest.raises(UsageError, match="that root is of 'other'"):
        arrivals.adopt_root(solo, other.roots[0].read_bytes())
    for number in (2, 3):
        change = Rotation({"root": [pair(twin.folder, f"r{number}")]})
        arrivals.rotate(twin, change, ISSUED)
    with pytest.raises(SignatureError):
        arrivals.adopt_root(solo, twin.roots[1].read_bytes())
    with pytest.raises(DowngradeError, match="does not follow root 1 directly"):
        arrivals.adopt_root(solo, twin.roots[2].read_bytes())
    assert len(solo.roots) == 1
