"""``tuf/`` only ever moves forward, and is whole at every moment."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.errors import MalformedError, NotFoundError, SignatureError, StateUnusableError
from appliance.kit import files
from appliance.trust import metadata
from appliance.trust import store as trust_store
from appliance.trust.documents import DIRECTOR_PATH, Director
from appliance.trust.metadata import Verified
from appliance.trust.store import TrustStore
from tests.helpers.importing import contents
from tests.helpers.signing import ISSUED, Signer, director, reading

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


GOOD = wire.loads(director(), what="it")


@pytest.mark.parametrize(
    "change",
    [
        {"org": None},
        {"epoch": "1"},
        {"epoch": None},
        {"keys": []},
        {"sync": []},
        {"keys": ["AA" * 32]},
        {"keys": "aa"},
        {"keys": None},
        {"sync": [1]},
    ],
)
def test_a_director_has_a_name_an_epoch_and_keys(change: dict[str, Any]) -> None:
    assert Director.parse(director()).keys == {"aa" * 32}
    with pytest.raises(MalformedError):
        Director.parse(wire.dumps({**GOOD, **change}))
    (name,) = change
    with pytest.raises(MalformedError):
        Director.parse(wire.dumps({k: v for k, v in GOOD.items() if k != name}))
