"""``tuf/`` only ever moves forward, and is whole at every moment."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import (
    DowngradeError,
    MalformedError,
    NotFoundError,
    RevokedError,
    SignatureError,
    StateUnusableError,
)
from appliance.kit import files
from appliance.trust import metadata
from appliance.trust import store as trust_store
from appliance.trust.documents import (
    DIRECTOR_PATH,
    HUB_PATH,
    REVOKED_PATH,
    Director,
    Revoked,
)
from appliance.trust.listed import Listed
from appliance.trust.metadata import RoleSet, Verified
from appliance.trust.scope import MANIFEST_TYPE
from appliance.trust.store import TrustStore
from tests.helpers.importing import contents
from tests.helpers.models import variant
from tests.helpers.signing import (
    ISSUED,
    InForce,
    Publisher,
    Signer,
    authority,
    director,
    hub,
    reading,
    revoked,
    target,
)

SIGNER = Signer.new()
ROOT = SIGNER.root_file()


class PowerCutError(BaseException):
    """The power went away."""


def verified(version: int) -> Verified:
    issued = ISSUED + datetime.timedelta(seconds=version)
    roles = SIGNER.metadata({}, (version, version, version), issued=issued)
    return metadata.refresh(ROOT, None, reading(roles), ISSUED)


@pytest.fixture
def trust(tmp_path: Path) -> TrustStore:
    made = TrustStore(tmp_path / "tuf")
    made.init(ROOT)
    return made


def test_a_node_is_given_one_root(trust: TrustStore) -> None:
    assert trust.root() == ROOT
    assert trust.init(ROOT) == 1
    before = contents(trust.folder)
    for other in (Signer.new().root_file(), SIGNER.root_file(2)):
        with pytest.raises(StateUnusableError, match="trusts another root already"):
            trust.init(other)
    assert contents(trust.folder) == before


def test_what_is_no_root_is_not_trusted(tmp_path: Path) -> None:
    trust = TrustStore(tmp_path / "tuf")
    with pytest.raises(NotFoundError, match="trusts no root yet"):
        trust.root()
    with pytest.raises(MalformedError):
        trust.init(b"{}")
    with pytest.raises(SignatureError):
        trust.init(ROOT.replace(b'"version": 1', b'"version": 2'))
    assert not trust.folder.exists()


def test_the_newest_root_is_the_one_with_the_highest_number(trust: TrustStore) -> None:
    for version in (2, 9, 10):
        trust.add_root(version, f"root {version}".encode())
    assert trust.root() == b"root 10"


def test_a_new_set_replaces_the_old_with_its_documents(trust: TrustStore) -> None:
    assert (trust.roles(), trust.director()) == (None, None)
    trust.commit(verified(1), {DIRECTOR_PATH: director(4)})
    found = trust.director()
    assert found is not None
    assert (found.org, found.epoch) == ("acme", 4)
    trust.commit(verified(2), {})
    assert (trust.roles(), trust.director()) == (verified(2).roles, None)
    assert len(list(trust.folder.glob("set-*"))) == 1


def test_a_crash_at_any_step_leaves_one_whole_set(
    trust: TrustStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut the power before each write, rename and fsync of a commit, one after the other."""
    trust.commit(verified(1), {DIRECTOR_PATH: director(1)})
    step = left = 0

    def cut(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise PowerCutError
            return call(*args, **kwargs)

        return counted

    monkeypatch.setattr(trust_store, "write_durably", cut(files.write_durably))
    monkeypatch.setattr(trust_store, "make_folder", cut(files.make_folder))
    monkeypatch.setattr(trust_store, "fsync_folder", cut(files.fsync_folder))
    for name in ("symlink_to", "rename", "unlink"):
        monkeypatch.setattr(Path, name, cut(getattr(Path, name)))
    seen = set()
    while True:
        step = left = step + 1
        try:
            trust.commit(verified(2), {DIRECTOR_PATH: director(2)})
            break
        except PowerCutError:
            again = TrustStore(trust.folder)
            version = 1 if again.roles() == verified(1).roles else 2
            assert again.roles() == verified(version).roles
            assert again.director() == Director.parse(director(version))
            seen.add(version)
    assert step > 10
    assert seen == {1, 2}
    assert TrustStore(trust.folder).roles() == verified(2).roles


# --- what may run ---------------------------------------------------------------------------------


def in_force(tmp_path: Path) -> InForce:
    return InForce(tmp_path / "other")


def test_what_is_in_force_lists_and_denies(tmp_path: Path) -> None:
    made, found = in_force(tmp_path), variant()
    assert made.trust.listed() == Listed()
    made.list(found)
    made.trust.listed().check_variant(found)
    made.documents[REVOKED_PATH] = revoked(found.weights)
    made.put()
    with pytest.raises(RevokedError):
        made.trust.listed().check_variant(found)
    made.documents.clear()
    made.put()  # offline keys may take a revocation back
    made.trust.listed().check_variant(found)
    made.listed.clear()
    made.put()
    with pytest.raises(DowngradeError):
        made.trust.listed().check_variant(found)


def test_asking_again_reads_nothing_until_another_set_is_in_force(tmp_path: Path) -> None:
    made = in_force(tmp_path)
    made.list(variant())
    first = made.trust.listed()
    assert made.trust.listed() is first
    assert TrustStore(made.trust.folder).listed() == first
    made.list(variant("large"))
    assert len(made.trust.listed().targets) == 2


def test_a_set_that_is_removed_while_it_is_looked_at_loses_no_revocation(
    trust: TrustStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {REVOKED_PATH: revoked(variant().weights)}
    trust.commit(verified(1), said)
    other, read = TrustStore(trust.folder), trust_store._roles

    def meanwhile(folder: Path) -> RoleSet | None:
        found = read(folder)
        monkeypatch.setattr(trust_store, "_roles", read)
        other.commit(verified(2), said)  # on the thread of an import
        return found

    monkeypatch.setattr(trust_store, "_roles", meanwhile)
    assert trust.listed().revoked == Revoked.parse(said[REVOKED_PATH])


def test_publishers_are_kept_with_the_set(trust: TrustStore) -> None:
    vendor = Publisher.new(listed={variant(publisher="vendor").path: target(b"x", MANIFEST_TYPE)})
    roles = SIGNER.metadata({}, publishers=[vendor])
    trust.commit(metadata.refresh(ROOT, None, reading(roles), ISSUED), {})
    assert TrustStore(trust.folder).roles() == roles
    assert list(trust.listed().targets) == [variant(publisher="vendor").path]
    gone = SIGNER.metadata({}, (2, 2, 2), removed=[vendor])
    trust.commit(metadata.refresh(ROOT, roles, reading(gone), ISSUED), {})
    assert trust.roles() == gone
    assert trust.listed().targets == {}


def test_all_documents_are_read_from_the_set(trust: TrustStore) -> None:
    assert (trust.hub(), trust.revoked()) == (None, Revoked())
    documents = {HUB_PATH: hub(3), REVOKED_PATH: revoked("sha256:" + "ab" * 32, epoch=2)}
    trust.commit(verified(1), documents)
    found = trust.hub()
    assert found is not None
    assert (found.epoch, found.ca) == (3, (authority(),))
    assert (trust.revoked().epoch, len(trust.revoked().digests)) == (2, 1)


def test_a_damaged_list_lets_nothing_start(tmp_path: Path) -> None:
    made = in_force(tmp_path)
    made.list(variant())
    (made.trust.folder / "current" / "targets.json").write_bytes(b"\0" * 100)
    with pytest.raises(StateUnusableError, match="damaged"):
        TrustStore(made.trust.folder).listed()
