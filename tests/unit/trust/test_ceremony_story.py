"""Six people on six machines found an organisation and sign its bundles; only files travel."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root

from appliance.errors import (
    ApplianceError,
    CorruptError,
    DowngradeError,
    EquivocationError,
    IncompleteError,
    MalformedError,
    NotFoundError,
    ScopeError,
    SignatureError,
    StateUnusableError,
    UsageError,
)
from appliance.trust.repository import Repository
from tests.helpers.organisation import Node
from tests.helpers.people import APPROVERS, FINISHER, Company, Machine, build_bundle
from tests.helpers.signing import flip
from tests.helpers.tuf_client import tuf_client

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Company:
    company = Company(tmp_path_factory.mktemp("company"))
    company.found()
    company.build()
    return company


@pytest.fixture
def company(founded: Company, tmp_path: Path) -> Company:
    """A copy of a company with its first bundle built, not yet signed by anybody."""
    shutil.copytree(next(iter(founded.people.values())).folder.parent, tmp_path / "company")
    made = Company.__new__(Company)
    made.people = {}
    for name in founded.people:
        machine = Machine.__new__(Machine)
        machine.folder = tmp_path / "company" / name
        made.people[name] = machine
    made.keys = made[FINISHER].folder / "keys"
    return made


def unsigned(company: Company) -> Path:
    return company[FINISHER].folder / "bundle-1.0.0"


def imported(company: Company, bundle: Path, folder: Path) -> tuple[str, ...]:
    node = Node.create(folder, (company.keys / "metadata" / "1.root.json").read_bytes())
    try:
        return node.importer.run(bundle, "a test").added
    finally:
        node.close()


def refusal(company: Company, bundle: Path, folder: Path) -> type[ApplianceError]:
    with pytest.raises(ApplianceError) as caught:
        imported(company, bundle, folder)
    return type(caught.value)


def standings(review: Any) -> dict[str, list[str]]:
    return {each["role"]: each["signed"] for each in review["standings"]}


# --- the good road --------------------------------------------------------------------------------


def test_root_2_of_3_and_targets_2_of_2_end_in_a_bundle_that_nodes_take(
    company: Company, tmp_path: Path
) -> None:
    bundle = unsigned(company)
    turns: list[tuple[object, ...]] = []
    for name in ("dora", "emil", "dora", "finn"):
        assert refusal(company, bundle, tmp_path / f"node-{len(turns)}") is IncompleteError
        bundle = company[name].take(bundle)
        review = company[name].sign_bundle(bundle)
        turns.append((name, standings(review), review["next"], review["finished"]))
    assert turns == [
        ("dora", {"targets": ["dora"], "snapshot": [], "timestamp": []}, ["emil"], False),
        ("emil", {"targets": ["dora", "emil"], "snapshot": ["emil"], "timestamp": []},
         ["dora"], False),
        ("dora", {"targets": ["dora", "emil"], "snapshot": ["dora", "emil"], "timestamp": []},
         ["finn"], False),
        ("finn", {"targets": ["dora", "emil"], "snapshot": ["dora", "emil"], "timestamp": ["finn"]},
         [], True),
    ]  # fmt: skip
    assert imported(company, bundle, tmp_path / "node")
    assert sorted(path.name for path in (bundle / "tuf").iterdir()) == [
        "1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json",
    ]  # fmt: skip


def test_python_tuf_s_own_client_takes_it(company: Company, tmp_path: Path) -> None:
    bundle = company.sign(unsigned(company))
    client = tuf_client(tmp_path, {p.name: p.read_bytes() for p in (bundle / "tuf").iterdir()})
    assert client.get_targetinfo("models/acme/small/1.0.0/Q4_0") is not None


def test_two_in_one_sitting_save_a_turn(company: Company, tmp_path: Path) -> None:
    dora = company["dora"]
    bundle, key = dora.take(unsigned(company)), dora.take(company["emil"].key)
    dora.take(company["emil"].key.with_suffix(".pub"))
    review = dora.sign_bundle(bundle, "--key", key)
    assert (review["next"], len(review["signed"])) == (["finn"], 4)
    bundle = company.sign(bundle, ["finn"])
    assert imported(company, bundle, tmp_path / "node")


def test_the_next_list_goes_on_from_the_adopted_one(company: Company, tmp_path: Path) -> None:
    finn, dora = company[FINISHER], company["dora"]
    with pytest.raises(StateUnusableError, match=r"list 1 left .* lacks signatures"):
        company.build("1.1.0")
    shutil.rmtree(finn.folder / "sources-1.1.0")
    with pytest.raises(IncompleteError, match=r"1\.targets\.json still needs 2 of: dora, emil"):
        finn.run("keys", "adopt", company.keys, unsigned(company))
    bundle = company.sign(unsigned(company), ["dora", "emil", "dora"])
    review = finn.sign_bundle(finn.take(bundle), "--keys", company.keys)
    assert review["finished"]
    assert review["root"]["trusted"]
    second = company.build("1.1.0")
    review = dora.sign_bundle(dora.take(second.folder))
    assert review["list"]["number"] == 2
    assert review["against"]["number"] == 1
    assert [(each["change"], each["path"]) for each in review["changes"]] == [
        ("added", "boms/small/1.1.0/mlbom"),
        ("added", "models/acme/small/1.1.0/Q4_0"),
        ("added", "releases/small/1.1.0.json"),
    ]
    bundle = company.sign(dora.folder / "bundle-1.1.0", ["emil", "dora", "finn"])
    assert imported(company, bundle, tmp_path / "node")
    assert finn.run("keys", "adopt", company.keys, bundle).stdout == "list 2 is in force here\n"
    assert finn.run("keys", "adopt", company.keys, bundle).stdout == "list 2 was here already\n"


def test_two_copies_that_were_finished_leave_no_number_to_be_used_again(
    company: Company, tmp_path: Path
) -> None:
    """Else the next list's timestamp has the second copy's number, and nodes take it for a lie."""
    finn = company[FINISHER]
    bundle = company.sign(unsigned(company), ["dora", "emil", "dora"])
    copies = [finn.take(shutil.copytree(bundle, tmp_path / name)) for name in ("one", "two")]
    for copy in copies:
        assert finn.sign_bundle(copy, "--keys", company.keys)["finished"]
    following = company.sign(company.build("1.1.0").folder)
    node = Node.create(tmp_path / "n", (company.keys / "metadata" / "1.root.json").read_bytes())
    try:
        for each in (*copies, following):
            node.importer.run(each, "a test")
    finally:
        node.close()


def test_what_was_given_up_gives_its_number_away_for_good(company: Company) -> None:
    finn = company[FINISHER]
    assert finn.ask("keys", "discard", company.keys) == {"discarded": 1}
    with pytest.raises(NotFoundError):
        finn.run("keys", "discard", company.keys)
    second = company.build("1.1.0")
    assert (second.folder / "tuf" / "2.targets.json").exists()
    bundle = company.sign(second.folder)
    finn.run("keys", "adopt", company.keys, bundle)
    with pytest.raises(DowngradeError, match="is older than list 2"):
        finn.run("keys", "adopt", company.keys, company.sign(unsigned(company)))


# --- who signs what -------------------------------------------------------------------------------


def test_signing_twice_changes_nothing(company: Company) -> None:
    bundle = company.sign(unsigned(company), ["dora"])
    before = {path.name: path.read_bytes() for path in (bundle / "tuf").iterdir()}
    review = company["dora"].sign_bundle(bundle)
    assert review["signed"] == []
    assert {path.name: path.read_bytes() for path in (bundle / "tuf").iterdir()} == before
    done = company.sign(bundle, ["emil", "dora", "finn"])
    before = {path.name: path.read_bytes() for path in (done / "tuf").iterdir()}
    for name in ("dora", "finn"):
        assert company[name].sign_bundle(done)["signed"] == []
    assert {path.name: path.read_bytes() for path in (done / "tuf").iterdir()} == before


def test_one_who_comes_too_early_is_told_who_is_next(company: Company) -> None:
    bundle = company.sign(unsigned(company), ["dora"])
    finn = company[FINISHER]
    review = finn.sign_bundle(finn.take(bundle))
    assert (review["signed"], review["next"]) == ([], ["emil"])
    text = finn.run("bundle", "sign", finn.folder / bundle.name).stdout
    assert "targets   1 of 2: dora; missing 1 of emil" in text
    assert "next: emil, with: appliance bundle sign" in text


def test_a_key_without_a_say_is_named(company: Company) -> None:
    anna = company["anna"]
    bundle = anna.take(unsigned(company))
    with pytest.raises(ScopeError, match="sign nothing in this bundle") as caught:
        anna.sign_bundle(bundle)
    assert "dora, emil, finn" in str(caught.value.hint)


def test_a_wrong_passphrase_signs_nothing(company: Company) -> None:
    dora = company["dora"]
    bundle = dora.take(unsigned(company))
    (dora.folder / "word").write_text("another passphrase\n")
    with pytest.raises(UsageError, match=r"that is not the passphrase of .*dora\.pem"):
        dora.sign_bundle(bundle)
    assert standings(dora.ask("bundle", "sign", bundle))["targets"] == []


def test_nobody_is_asked_to_sign_a_root_that_was_changed(company: Company, tmp_path: Path) -> None:
    """Asked first, a person would compare the lines of a forgery and say yes."""
    finn, anna = company[FINISHER], company["anna"]
    third = Machine(tmp_path / "frieda")
    change = ("--remove", "root=ben", "--add", f"root={third.make_key()}")
    draft = Path(finn.ask("keys", "rotate", company.keys, *change)["root"])
    passed = company["carla"].take(draft)
    company["carla"].sign_root(passed, "--root", company.keys / "metadata" / "1.root.json")
    passed = anna.take(passed)
    found = json.loads(passed.read_bytes())
    found["signed"]["expires"] = "2030-01-01T00:00:00Z"
    passed.write_text(json.dumps(found))
    before = anna.take(company.keys / "metadata" / "1.root.json")
    with pytest.raises(SignatureError, match="was changed after carla signed it"):
        anna.run("keys", "sign", passed, "--key", anna.key, "--root", before)


def test_nobody_signs_what_nobody_could_read(company: Company) -> None:
    dora = company["dora"]
    bundle = dora.take(unsigned(company))
    word = dora.folder / "word"
    with pytest.raises(UsageError, match="what is signed is read first"):
        dora.run("bundle", "sign", bundle, "--key", dora.key, "--passphrase-file", word)
    assert standings(dora.ask("bundle", "sign", bundle))["targets"] == []


def test_a_medium_that_cannot_be_written_is_said(company: Company) -> None:
    dora = company["dora"]
    bundle = dora.take(unsigned(company))
    shutil.rmtree(dora.folder / "elsewhere", ignore_errors=True)
    before = (bundle / "tuf" / "1.targets.json").read_bytes()
    with pytest.MonkeyPatch.context() as patched:

        def read_only(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        patched.setattr("os.open", _only_reading(read_only))
        with pytest.raises(StateUnusableError, match="Read-only file system while writing"):
            dora.sign_bundle(bundle)
    assert (bundle / "tuf" / "1.targets.json").read_bytes() == before
    assert standings(dora.sign_bundle(bundle))["targets"] == ["dora"]


def _only_reading(refuse: Any) -> Any:
    import os  # noqa: PLC0415

    opened = os.open

    def call(path: Any, flags: int, *more: Any, **how: Any) -> Any:
        return refuse() if flags & os.O_CREAT else opened(path, flags, *more, **how)

    return call


# --- what was changed on its way ------------------------------------------------------------------


def changed(path: Path, edit: Any) -> None:
    found = json.loads(path.read_bytes())
    edit(found)
    path.write_text(json.dumps(found))


def test_a_list_that_was_changed_after_a_signature_is_signed_by_nobody(company: Company) -> None:
    bundle = company.sign(unsigned(company), ["dora"])
    emil = company["emil"]
    bundle = emil.take(bundle)

    def add(found: Any) -> None:
        targets = found["signed"]["targets"]
        targets["images/evil/1"] = next(iter(targets.values()))

    changed(bundle / "tuf" / "1.targets.json", add)
    with pytest.raises(SignatureError, match="was changed after dora signed it"):
        emil.sign_bundle(bundle)


def test_a_snapshot_that_names_another_list_is_signed_by_nobody(company: Company) -> None:
    bundle = company.sign(unsigned(company), ["dora", "emil"])
    path, dora = bundle / "tuf" / "1.snapshot.json", company["dora"]

    def point_elsewhere(found: Any) -> None:
        found["signed"]["meta"]["targets.json"]["hashes"]["sha256"] = "0" * 64
        found["signatures"] = []

    changed(path, point_elsewhere)
    with pytest.raises(CorruptError, match="does not follow from the lists beside it"):
        dora.sign_bundle(dora.take(bundle))


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("x-issued", "2098-01-01T00:00:00.000Z", "issued 2098-01-01, which is still to come"),
        ("expires", "2099-01-01T00:00:00Z", "lives longer than 730 days"),
    ],
)
@pytest.mark.parametrize("turns", [[], ["dora", "emil"]])
def test_nobody_signs_what_is_dated_ahead(
    company: Company, turns: list[str], field: str, value: str, why: str
) -> None:
    bundle, dora = company["dora"].take(company.sign(unsigned(company), turns)), company["dora"]

    def date_ahead(found: Any) -> None:
        found["signed"] |= {"expires": "2099-01-01T00:00:00Z", field: value}
        found["signatures"].clear()

    changed(bundle / "tuf" / f"1.{'snapshot' if turns else 'targets'}.json", date_ahead)
    with pytest.raises(MalformedError, match=why):
        dora.sign_bundle(bundle)


def test_a_stranger_s_signature_is_not_overlooked(company: Company) -> None:
    bundle, dora = unsigned(company), company["dora"]

    def add(found: Any) -> None:
        found["signatures"].append({"keyid": "ab" * 32, "sig": "00" * 64})

    changed(bundle / "tuf" / "1.targets.json", add)
    with pytest.raises(ScopeError, match="a key that may not sign it: abababab"):
        dora.sign_bundle(dora.take(bundle))


def test_what_a_declaration_says_is_shown_and_checked(company: Company) -> None:
    finn, dora = company[FINISHER], company["dora"]
    finn.run("keys", "discard", company.keys)
    digest = "sha256:" + "ab" * 32
    finn.run("keys", "revoke-digest", company.keys, digest, "--why", "leaks", "--stop")
    bundle = dora.take(company.build("1.1.0").folder)
    text = dora.run("bundle", "sign", bundle).stdout
    assert "+ trust/revoked.json" in text
    assert "leaks" in text
    (blob,) = [p for p in (bundle / "blobs" / "sha256").iterdir() if b"leaks" in p.read_bytes()]
    flip(blob)
    with pytest.raises(CorruptError, match="holds other bytes than the list says"):
        dora.run("bundle", "sign", bundle)


def test_a_path_cannot_hide_itself_on_the_screen(company: Company) -> None:
    bundle, dora = company["dora"].take(unsigned(company)), company["dora"]

    def add(found: Any) -> None:
        targets = found["signed"]["targets"]
        targets["images/evil\x1b[2K\r/1\n"] = next(iter(targets.values()))

    changed(bundle / "tuf" / "1.targets.json", add)
    text = dora.run("bundle", "sign", bundle).stdout
    assert "+ images/evil\\x1b[2K\\r/1\\n  sha256" in text
    assert "\x1b" not in text


def test_another_organisation_s_root_is_not_believed(company: Company, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    other.run("keys", "init", other.folder / "keys", "--org", "acme", "--solo")
    dora = company["dora"]
    bundle = dora.take(unsigned(company))
    root = other.folder / "keys" / "metadata" / "1.root.json"
    with pytest.raises(EquivocationError, match="is not the one that is trusted here"):
        dora.sign_bundle(bundle, "--keys", root)
    mine = company.keys / "metadata" / "1.root.json"
    assert dora.sign_bundle(bundle, "--keys", mine)["root"]["trusted"]


def test_an_earlier_list_that_travels_along_must_be_ours(company: Company) -> None:
    finn, dora = company[FINISHER], company["dora"]
    finn.run("keys", "adopt", company.keys, company.sign(unsigned(company)))
    bundle = dora.take(company.build("1.1.0").folder)

    def hide(found: Any) -> None:
        found["signed"]["targets"]["images/evil/1"] = {"length": 1, "hashes": {"sha256": "0" * 64}}

    changed(bundle / "tuf" / "previous.targets.json", hide)
    with pytest.raises(SignatureError, match="was not signed by this organisation"):
        dora.sign_bundle(bundle)


# --- a folder of one's own ------------------------------------------------------------------------


def test_an_approver_keeps_a_folder_to_compare_with(company: Company) -> None:
    dora = company["dora"]
    root = dora.take(company.keys / "metadata" / "1.root.json")
    mine = dora.folder / "mine"
    assert "follows acme from root 1" in dora.run("keys", "adopt", mine, root).stdout
    company[FINISHER].run("keys", "discard", company.keys)
    bundle = company.sign(company.build("1.1.0").folder)
    dora.run("keys", "adopt", mine, bundle)
    assert dora.ask("keys", "list", mine)["list"]["version"] == 2
    with pytest.raises(DowngradeError, match=r"1\.targets\.json is older than list 2"):
        dora.sign_bundle(dora.take(unsigned(company)), "--keys", mine)


def test_two_lists_of_one_number_are_not_both_adopted(company: Company, tmp_path: Path) -> None:
    dora = company["dora"]
    twin = tmp_path / "twin"
    shutil.copytree(company.keys, twin)
    (twin / "draft.json").unlink()
    first = company.sign(unsigned(company))
    other = build_bundle(tmp_path, Repository(twin), "2.0.0")
    second = company.sign(other.folder)
    mine = dora.folder / "mine"
    dora.run("keys", "adopt", mine, company.keys / "metadata" / "1.root.json")
    dora.run("keys", "adopt", mine, first)
    with pytest.raises(EquivocationError, match="another list 1 was finished before"):
        dora.run("keys", "adopt", mine, second)
    with pytest.raises(EquivocationError, match="another list 1 was finished before"):
        dora.sign_bundle(dora.take(other.folder), "--keys", mine)


def test_thresholds_count_people(company: Company) -> None:
    root = Metadata[Root].from_file(str(company.keys / "metadata" / "1.root.json")).signed
    found = {name: (role.threshold, len(role.keyids)) for name, role in root.roles.items()}
    assert found == {"root": (2, 3), "targets": (2, 2), "snapshot": (2, 2), "timestamp": (1, 1)}
    assert len(APPROVERS) == 2


def test_a_list_with_all_its_signatures_is_frozen(company: Company, tmp_path: Path) -> None:
    """A third approver's signature would change the bytes that the snapshot names."""
    finn = company[FINISHER]
    finn.run("keys", "discard", company.keys)
    third = Machine(tmp_path / "frieda")
    draft = finn.ask("keys", "rotate", company.keys, "--add", f"targets={third.make_key()}")
    passed = Path(draft["root"])
    for name in ("ben", "anna"):
        passed = company[name].take(passed)
        old = company[name].take(company.keys / "metadata" / "1.root.json")
        company[name].sign_root(passed, "--root", old)
    finn.run("keys", "adopt", company.keys, finn.take(passed))
    bundle = company.sign(company.build("1.1.0").folder, ["dora", "emil"])
    before = (bundle / "tuf" / "2.targets.json").read_bytes()
    bundle = third.take(bundle)
    review = third.sign_bundle(bundle)
    assert review["signed"] == [{"file": "1.snapshot.json", "by": "frieda"}]
    assert (bundle / "tuf" / "2.targets.json").read_bytes() == before
    assert imported(company, company.sign(bundle, ["finn"]), tmp_path / "node")


def test_no_other_list_of_a_publisher_is_signed_than_its_newest(
    company: Company, tmp_path: Path
) -> None:
    finn, dora, vendor = company[FINISHER], company["dora"], Machine(tmp_path / "contoso")
    finn.run("keys", "discard", company.keys)
    pub = vendor.make_key()
    vendor.run("keys", "init", vendor.folder / "own", "--org", "contoso", "--solo")
    own = build_bundle(vendor.folder, Repository(vendor.folder / "own"), publisher="contoso")
    sign = ("keys", "publish", "contoso", "--from", own.folder, "--key", vendor.key, "--yes",
            "-o", vendor.folder, "--passphrase-file", vendor.folder / "word")  # fmt: skip
    first = Path(vendor.ask(*sign)["list"])
    second = Path(vendor.ask(*sign, "--last", first)["list"])
    finn.run("keys", "add-publisher", company.keys, "contoso", "--key", pub)
    finn.run("keys", "adopt", company.keys, finn.take(second))
    bundle = company.sign(company.build("1.1.0").folder)
    assert (bundle / "tuf" / second.name).exists()
    finn.run("keys", "adopt", company.keys, bundle)
    bundle = dora.take(company.build("1.2.0").folder)
    changed(bundle / "tuf" / second.name, lambda found: found["signatures"].clear())
    with pytest.raises(SignatureError, match="not signed by 1 of the keys of contoso"):
        dora.sign_bundle(bundle)
    (bundle / "tuf" / second.name).unlink()
    with pytest.raises(IncompleteError, match="the list of the publisher contoso is not here"):
        dora.sign_bundle(bundle)
    shutil.copy(first, bundle / "tuf")
    with pytest.raises(DowngradeError, match="older than list 2 of contoso, which nodes have"):
        dora.sign_bundle(bundle)
