"""Publishers approve their own models, and nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets

from appliance.errors import (
    DowngradeError,
    EquivocationError,
    NotFoundError,
    ScopeError,
    SignatureError,
    UsageError,
)
from appliance.trust import arrivals, passing, publishers, signing
from appliance.trust.keys import Keyring, PublicKey, create_pair
from appliance.trust.publishers import Publisher
from appliance.trust.repository import Published, Repository
from tests.helpers.signing import ISSUED, digest_of
from tests.helpers.signing import target as target_file
from tests.helpers.tuf_client import tuf_client
from tests.unit.trust.test_repository import new_target

PATH = "models/contoso/small/1.0.0/Q4_0"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.init_solo(tmp_path / "keys", "acme", ISSUED)


@pytest.fixture
def contoso(tmp_path: Path) -> PublicKey:
    (tmp_path / "vendor").mkdir()
    return create_pair(tmp_path / "vendor" / "contoso.pem")


def their_list(
    folder: Path,
    version: int = 1,
    path: str = PATH,
    data: bytes = b"words",
    edit: Callable[[Any], object] = lambda _: None,
) -> bytes:
    target = target_file(data, "text/plain")
    target.path = path
    signed = Targets(version=version, targets={path: target})
    edit(signed)
    part = signing.draft(signed, "targets", ISSUED)
    keyring = Keyring([folder / "vendor" / "contoso.pem"])
    keys = tuple(signing.tuf_key(key) for key in keyring.halves)
    signing.add_signatures(part, signing.Signers("it", 1, keys), keyring)
    return signing.write(part)


def file(version: int = 1) -> str:
    return f"{version}.publisher-contoso.json"


def newest(published: Published, kind: str) -> Any:
    names = [name for name in published.files if name.endswith(f".{kind}.json")]
    name = max(names, key=lambda each: int(each.split(".")[0]))
    return Metadata.from_bytes(published.files[name])


def test_a_publisher_is_delegated_its_own_models_and_stops_there(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    repository.add_publisher(Publisher("contoso", (contoso,)))
    before = repository.publish([], ISSUED)
    assert newest(before, "targets").signed.delegations is None  # until its list is here
    arrivals.take_list(repository, their_list(tmp_path), file())
    published = repository.publish([new_target(PATH), new_target("models/acme/x/1/Q4_0")], ISSUED)
    targets: Metadata[Targets] = newest(published, "targets")
    assert targets.signed.delegations is not None
    (role,) = (targets.signed.delegations.roles or {}).values()
    assert (role.name, role.paths, role.terminating, role.threshold) == (
        "publisher-contoso", ["models/contoso/*/*/*"], True, 1,
    )  # fmt: skip
    assert list(targets.signed.targets) == ["models/acme/x/1/Q4_0"]  # its word is enough
    theirs = Metadata[Targets].from_bytes(published.files[file()])
    targets.signed.verify_delegate("publisher-contoso", theirs.signed_bytes, theirs.signatures)
    meta = newest(published, "snapshot").signed.meta["publisher-contoso.json"]
    meta.verify_length_and_hashes(published.files[file()])
    assert (meta.version, meta.length is not None) == (1, True)


def test_what_the_publisher_did_not_approve_so_is_the_organisation_s_word(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    repository.add_publisher(Publisher("contoso", (contoso,)))
    arrivals.take_list(repository, their_list(tmp_path), file())
    published = repository.publish([new_target(PATH, b"other words")], ISSUED)
    assert list(newest(published, "targets").signed.targets) == [PATH]


def test_a_removed_publisher_keeps_its_entry_in_every_later_snapshot(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    repository.add_publisher(Publisher("contoso", (contoso,)))
    arrivals.take_list(repository, their_list(tmp_path, 3), file(3))
    first: Metadata[Snapshot] = newest(repository.publish([], ISSUED), "snapshot")
    repository.remove_publisher("contoso")
    for _ in range(2):
        published = repository.publish([], ISSUED)
        assert newest(published, "targets").signed.delegations is None
        later: Metadata[Snapshot] = newest(published, "snapshot")
        entry = later.signed.meta["publisher-contoso.json"]
        assert entry == first.signed.meta["publisher-contoso.json"]
        assert file(3) not in published.files
    with pytest.raises(NotFoundError, match="there is no publisher contoso"):
        repository.remove_publisher("contoso")
    repository.add_publisher(Publisher("contoso", (contoso,)))
    (repository.folder / "metadata" / file(3)).unlink()
    with pytest.raises(DowngradeError, match="older than list 3 of contoso"):
        arrivals.take_list(repository, their_list(tmp_path, 2), file(2))


def test_only_its_own_key_and_its_own_models_count(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match="of no publisher that was added"):
        arrivals.take_list(repository, their_list(tmp_path), file())
    repository.add_publisher(Publisher("contoso", (contoso,)))
    for path in (
        "images/contoso/1", "models/acme/small/1.0.0/Q4_0", "models/contoso/small/1.0.0",
        "models/contoso/a/b/c/d", "models/contoso//1/Q4_0", "trust/director.json",
    ):  # fmt: skip
        with pytest.raises(ScopeError, match="contoso may not approve"):
            arrivals.take_list(repository, their_list(tmp_path, path=path), file())

    def hand_on(signed: Targets) -> None:
        key = signing.tuf_key(contoso)
        publisher = Publisher("fabrikam", (PublicKey("f", key.keyval["public"]),))
        signed.delegations = publishers.delegations([publisher])

    with pytest.raises(ScopeError, match="hands on what it was given"):
        arrivals.take_list(repository, their_list(tmp_path, edit=hand_on), file())
    good = their_list(tmp_path)
    shutil.rmtree(tmp_path / "vendor")
    (tmp_path / "vendor").mkdir()
    create_pair(tmp_path / "vendor" / "contoso.pem")
    with pytest.raises(SignatureError, match="is not signed by 1 of the keys of contoso"):
        arrivals.take_list(repository, their_list(tmp_path), file())
    with pytest.raises(SignatureError, match="was changed after contoso signed it"):
        arrivals.take_list(repository, good.replace(b"Q4_0", b"Q8_0"), file())
    assert repository.files.lists == {}


def test_a_publisher_s_lists_only_move_forward(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    repository.add_publisher(Publisher("contoso", (contoso,)))
    second = their_list(tmp_path, 2)
    assert arrivals.take_list(repository, second, file(2)).version == 2
    assert arrivals.take_list(repository, second, file(2)).version == 2
    with pytest.raises(DowngradeError, match="older than list 2"):
        arrivals.take_list(repository, their_list(tmp_path, 1), file(1))
    with pytest.raises(EquivocationError, match="another list 2 of contoso"):
        arrivals.take_list(repository, their_list(tmp_path, 2, data=b"other"), file(2))


def test_a_publisher_with_a_new_key_must_sign_anew(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    repository.add_publisher(Publisher("contoso", (contoso,)))
    arrivals.take_list(repository, their_list(tmp_path), file())
    shutil.rmtree(tmp_path / "vendor")
    (tmp_path / "vendor").mkdir()
    new = create_pair(tmp_path / "vendor" / "contoso.pem")
    repository.add_publisher(Publisher("contoso", (new,)))
    published = repository.publish([], ISSUED)
    assert newest(published, "targets").signed.delegations is None
    arrivals.take_list(repository, their_list(tmp_path, 2), file(2))
    assert file(2) in repository.publish([], ISSUED).files


def test_who_is_no_publisher_is_not_added(repository: Repository, contoso: PublicKey) -> None:
    with pytest.raises(UsageError, match="is not a publisher's name"):
        repository.add_publisher(Publisher("../x", (contoso,)))
    with pytest.raises(UsageError, match="cannot need 2 of 1"):
        repository.add_publisher(Publisher("contoso", (contoso,), 2))
    ours = PublicKey.read(repository.folder / "targets-1.pub")
    with pytest.raises(UsageError, match="is a key of acme: targets-1"):
        repository.add_publisher(Publisher("contoso", (PublicKey("x", ours.public),)))
    assert repository.files.publishers == {}


def test_a_list_that_hands_out_more_is_not_signed() -> None:
    key = PublicKey("x", "ab" * 32)
    for edit in (
        {"paths": ["models/*/*/*/*"]}, {"terminating": False}, {"name": "other"},
        {"paths": ["models/contoso/*/*/*", "images/*"]},
    ):  # fmt: skip
        signed = Targets(targets={"a": TargetFile.from_data("a", b"words", ["sha256"])})
        signed.delegations = publishers.delegations([Publisher("contoso", (key,))])
        assert list(publishers.delegated(signed)) == ["contoso"]
        assert signed.delegations is not None
        assert signed.delegations.roles is not None
        role = signed.delegations.roles["publisher-contoso"]
        for name, value in edit.items():
            setattr(role, name, value)
        signed.delegations.roles = {role.name: role}
        with pytest.raises(ScopeError, match="approve more than one publisher's models"):
            publishers.delegated(signed)


def test_python_tuf_s_own_client_follows_the_delegation(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    repository.add_publisher(Publisher("contoso", (contoso,)))
    arrivals.take_list(repository, their_list(tmp_path), file())
    published = repository.publish([new_target("models/acme/x/1/Q4_0")], ISSUED)
    client = tuf_client(tmp_path, published.files)
    theirs = client.get_targetinfo(PATH)
    assert theirs is not None
    assert theirs.hashes == {"sha256": digest_of(b"words").removeprefix("sha256:")}
    assert client.get_targetinfo("models/acme/x/1/Q4_0") is not None
    assert client.get_targetinfo("models/contoso/other/1/Q4_0") is None
    repository.remove_publisher("contoso")
    published = repository.publish([], ISSUED)
    assert tuf_client(tmp_path, published.files).get_targetinfo(PATH) is None


def test_two_people_of_a_publisher_sign_one_after_the_other(
    repository: Repository, contoso: PublicKey, tmp_path: Path
) -> None:
    second = create_pair(tmp_path / "vendor" / "second.pem")
    repository.add_publisher(Publisher("contoso", (contoso, second), 2))
    path = tmp_path / file()
    path.write_bytes(their_list(tmp_path))
    with pytest.raises(SignatureError, match="is not signed by 2 of the keys of contoso"):
        arrivals.take_list(repository, path.read_bytes(), file())
    keyring = Keyring([tmp_path / "vendor" / "second.pem"])
    assert passing.read(path, None, keyring.halves).sign(keyring) == ["second"]
    assert arrivals.take_list(repository, path.read_bytes(), file()).version == 1
