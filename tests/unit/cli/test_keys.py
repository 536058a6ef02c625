"""The keys group: what a security officer types, and what they see."""

import shutil
from pathlib import Path

import pytest
import typer

from appliance.cli import asking, declare
from appliance.errors import MalformedError, ScopeError, StateUnusableError, UsageError
from appliance.trust.repository import Repository
from tests.helpers.people import PASSPHRASE, Machine, build_bundle
from tests.unit.trust.test_declarations import DIGEST, authority

pytestmark = pytest.mark.slow


@pytest.fixture
def officer(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "officer")


@pytest.fixture
def solo(officer: Machine) -> Path:
    officer.run("keys", "init", officer.folder / "keys", "--org", "acme", "--solo")
    return officer.folder / "keys"


def test_solo_is_shown_as_such(officer: Machine, solo: Path) -> None:
    found = officer.ask("keys", "list", solo)
    assert found["solo"]
    assert (
        "solo: one person alone can approve everything" in officer.run("keys", "list", solo).stdout
    )
    assert [(r["role"], r["threshold"], len(r["keys"])) for r in found["roles"]] == [
        ("root", 1, 2), ("targets", 1, 1), ("timestamp", 1, 1),
    ]  # fmt: skip
    assert all(key["here"] for role in found["roles"] for key in role["keys"])
    (solo / "root-2.pem").rename(officer.folder / "safe.pem")
    (root, *_) = officer.ask("keys", "list", solo)["roles"]
    assert [key["here"] for key in root["keys"]] == [True, False]


def test_everything_declared_is_listed(officer: Machine, solo: Path) -> None:
    vendor = Machine(officer.folder.parent / "contoso")
    pub = vendor.make_key()
    (officer.folder / "ca.pem").write_bytes(authority()[0])
    officer.run("keys", "add-publisher", solo, "contoso", "--key", pub)
    officer.run("keys", "revoke-digest", solo, DIGEST, "--why", "leaks", "--stop")
    officer.run("keys", "name-ca", solo, "--ca", officer.folder / "ca.pem")
    text = officer.run("keys", "list", solo).stdout
    assert "publisher contoso: 1 of contoso (" in text
    assert "waits for its first list" in text
    assert f"revoked: {DIGEST}: leaks; stops what runs" in text
    assert "hub: epoch 1, 1 certificate authorities" in text
    officer.run("keys", "remove-publisher", solo, "contoso")
    assert officer.ask("keys", "list", solo)["publishers"] == []


def test_a_file_that_is_no_authority_is_named(solo: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "ca.pem", tmp_path / "passwd"
    good.write_bytes(authority()[0])
    bad.write_text("root:x:0:0:root:/root:/bin/sh\n")
    with pytest.raises(MalformedError) as refused:
        declare.name_ca(solo, [good, bad])
    assert refused.value.what.startswith(f"{bad} is not ")
    assert refused.value.hint
    assert not (solo / "hub.json").exists()


def test_a_vendor_signs_its_models_and_hands_the_list_over(officer: Machine, solo: Path) -> None:
    vendor = Machine(officer.folder.parent / "contoso")
    pub = vendor.make_key()
    vendor.run("keys", "init", vendor.folder / "own", "--org", "contoso", "--solo")
    built = build_bundle(vendor.folder, Repository(vendor.folder / "own"), publisher="contoso")
    sign = ("keys", "publish", "contoso", "--from", built.folder, "--key", vendor.key,
            "-o", vendor.folder, "--yes", "--passphrase-file", vendor.folder / "word")  # fmt: skip
    first = Path(vendor.ask(*sign)["list"])
    assert first.name == "1.publisher-contoso.json"
    officer.run("keys", "add-publisher", solo, "contoso", "--key", pub)
    adopted = officer.run("keys", "adopt", solo, officer.take(first)).stdout
    assert adopted == "list 1 of contoso goes into the next bundle\n"
    second = Path(vendor.ask(*sign, "--last", first)["list"])
    assert second.name == "2.publisher-contoso.json"
    bundle = build_bundle(officer.folder, Repository(solo), publisher="contoso").folder
    assert (bundle / "tuf" / "1.publisher-contoso.json").exists()
    assert "models/contoso" not in (bundle / "tuf" / "1.targets.json").read_text().replace(
        "models/contoso/*/*/*", ""
    )


def test_a_key_is_made_locked_and_unlocked(officer: Machine) -> None:
    officer.make_key()
    key, word = officer.key, officer.folder / "word"
    other = officer.folder / "other"
    other.write_text("a passphrase that is new")
    with pytest.raises(StateUnusableError, match="is there already"):
        officer.make_key()
    officer.run(
        "keys", "passphrase", key, "--passphrase-file", word, "--new-passphrase-file", other
    )
    with pytest.raises(UsageError, match="that is not the passphrase"):
        officer.run("keys", "passphrase", key, "--passphrase-file", word, "--remove")
    officer.run("keys", "passphrase", key, "--passphrase-file", other, "--remove")
    assert b"ENCRYPTED" not in key.read_bytes()
    officer.run("keys", "passphrase", key, "--new-passphrase-file", word)
    assert b"ENCRYPTED" in key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600


def test_without_a_terminal_nothing_is_asked(officer: Machine) -> None:
    with pytest.raises(UsageError, match="no terminal to ask at"):
        officer.run("keys", "create", officer.key)
    assert not officer.key.exists()
    officer.run("keys", "create", officer.key, "--no-passphrase")
    assert b"ENCRYPTED" not in officer.key.read_bytes()


def test_a_person_is_asked_without_echo_and_may_say_no(
    officer: Machine, solo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[bool] = []

    def prompt(_: str, *, hide_input: bool, **__: object) -> str:
        hidden.append(hide_input)
        return PASSPHRASE

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: False)
    monkeypatch.setattr(asking, "_need_terminal", lambda *_: None)
    officer.run("keys", "create", officer.key)
    assert hidden == [True]
    root = solo / "metadata" / "1.root.json"
    draft = officer.take(root)
    draft.write_text(draft.read_text().replace('"signatures": [', '"signatures": [], "x": ['))
    before = draft.read_bytes()
    with pytest.raises(AssertionError, match="nothing was signed"):
        officer.run("keys", "sign", draft, "--key", solo / "root-1.pem")
    assert draft.read_bytes() == before


def test_keys_are_rotated_by_the_words_of_the_command(officer: Machine, solo: Path) -> None:
    pub = officer.make_key()
    found = officer.ask(
        "keys", "rotate", solo, "--remove", "timestamp=timestamp-1", "--add", f"timestamp={pub}"
    )
    assert found["in_force"]
    (*_, timestamp) = officer.ask("keys", "list", solo)["roles"]
    assert [key["name"] for key in timestamp["keys"]] == ["officer"]
    for words in (["--add", "x"], ["--remove", "snapshot=x"], ["--threshold", "root=two"]):
        with pytest.raises(UsageError):
            officer.run("keys", "rotate", solo, *words)


def test_a_root_is_not_signed_with_a_key_of_another_role(officer: Machine, solo: Path) -> None:
    root = officer.take(solo / "metadata" / "1.root.json")
    with pytest.raises(ScopeError, match="these may: root-1, root-2"):
        officer.run("keys", "sign", root, "--key", solo / "targets-1.pem", "--yes")


def test_a_list_is_not_signed_apart_from_its_bundle(officer: Machine, solo: Path) -> None:
    bundle = build_bundle(officer.folder, Repository(solo)).folder
    path = shutil.copy(bundle / "tuf" / "1.targets.json", officer.folder)
    with pytest.raises(UsageError, match="neither a root nor a publisher's list"):
        officer.run("keys", "sign", path, "--key", solo / "targets-1.pem", "--yes")
