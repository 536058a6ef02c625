"""A node that was put back is the same node with another ledger, and does nothing twice."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.core.ids import NodeId
from appliance.errors import (
    ApplianceError,
    CorruptError,
    IncompleteError,
    LockedError,
    MalformedError,
    StateUnusableError,
)
from appliance.kit.backup import Backup
from appliance.kit.clock import SystemClock
from appliance.kit.files import locked
from appliance.ledger import chain, meta, receipts, retained, streams
from appliance.ledger.streams import Fact, Stream
from appliance.node import auditing, backup, identity
from appliance.sync.batch import maker, open_batch
from appliance.trust.envelope import Addressee
from appliance.trust.store import TrustStore
from tests.helpers.carrying import carrier_of
from tests.helpers.organisation import Node, Organisation
from tests.helpers.signing import new_key

AT = "2026-12-01T00:00:00.000Z"
LATER = "2026-12-02T00:00:00.000Z"


@pytest.fixture
def saved(node: Node, small_bundle: Path, tmp_path: Path) -> Path:
    """A node with a model and some records, backed up while it is open."""
    node.importer.run(small_bundle, "test")
    node.ledger.note(*[Fact(Stream.USAGE, "t", AT, {"n": n}) for n in range(5)]).result()
    folder = tmp_path / "backup"
    backup.make(node.state, NodeId("box-1"), node.ledger, folder, AT)
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


def test_a_backup_brings_back_name_key_trust_and_catalogue(
    node: Node, saved: Path, tmp_path: Path
) -> None:
    before, state = identity.load(node.state), tmp_path / "new"
    found = backup.restore(saved, state, LATER)
    assert found.node == "box-1"
    assert identity.load(state) == before or identity.load(state).key.public == before.key.public
    assert (state / "identity" / "node.pem").stat().st_mode & 0o077 == 0
    again = Node.open(state)
    assert again.trust.director() == node.trust.director()
    assert again.trust.roles() == node.trust.roles()
    rows = "SELECT model, version FROM variants"
    assert [tuple(r) for r in again.ledger.read(lambda db: db.execute(rows).fetchall())] == [
        ("small", "1.0.0")
    ]
    again.close()


def test_a_restore_begins_a_new_ledger_and_names_the_old_one(
    node: Node, saved: Path, tmp_path: Path
) -> None:
    head = node.ledger.read(chain.head)
    found = backup.restore(saved, tmp_path / "new", LATER)
    again = Node.open(tmp_path / "new")
    ledger = again.ledger
    assert ledger.epoch == found.epoch != node.ledger.epoch
    assert ledger.read(lambda db: streams.position(db, Stream.USAGE)).written == 0
    assert ledger.read(receipts.rows) == []
    (record,) = ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 9)))
    assert record.seq == 1
    assert record.record["kind"] == "restored"
    body = record.record["body"]
    assert body["epoch"] == node.ledger.epoch
    assert body["audit"] == head.to_wire()
    assert body["streams"]["usage"] == {"written": 5, "acknowledged": 0}
    assert found.unsent == sum(s["written"] for s in body["streams"].values())
    assert auditing.verify(ledger, []).last == 1
    assert ledger.read(retained.earlier) == head.seq  # the old log is kept beside the new one
    made = again.receipts.export(_stick(tmp_path))
    assert made.upto == 1
    again.close()


def _stick(folder: Path) -> Path:
    path = folder / "stick"
    path.mkdir(exist_ok=True)
    return path


def test_blobs_are_hashed_before_a_restored_node_uses_them(
    node: Node, saved: Path, tmp_path: Path
) -> None:
    state = tmp_path / "new"
    shutil.copytree(node.state / "store", state / "store")
    backup.restore(saved, state, LATER)
    again = Node.open(state)
    states = again.ledger.read(
        lambda db: {r[0] for r in db.execute("SELECT DISTINCT state FROM blobs")}
    )
    assert states == {"returned"}
    again.close()


def test_the_same_backup_twice_makes_two_ledgers(saved: Path, tmp_path: Path) -> None:
    first = backup.restore(saved, tmp_path / "one", LATER)
    second = backup.restore(saved, tmp_path / "two", LATER)
    assert len({first.epoch, second.epoch, first.old_epoch}) == 3


def test_what_stands_there_makes_way_only_when_told(
    node: Node, saved: Path, tmp_path: Path, organisation: Organisation
) -> None:
    with pytest.raises(StateUnusableError, match="is in"):
        backup.restore(saved, node.state, LATER)
    other = tmp_path / "other"
    identity.create(other, NodeId("box-2"), organisation.root)
    with pytest.raises(StateUnusableError, match="box-2"):
        backup.restore(saved, other, LATER, replace=True)
    node.ledger.close()
    store = tree(node.state / "store")
    found = backup.restore(saved, node.state, LATER, replace=True)
    again = Node.open(node.state)
    assert again.ledger.epoch == found.epoch
    assert tree(node.state / "store") == store
    again.close()


def _with_hub(node: Node) -> None:
    """Have a hub named, as a bundle does."""
    keys = {"keys": [new_key().public], "sync": [new_key().public]}
    document = {"org": "acme", "epoch": 1, **keys, "sites": ["*"], "verbs": []}
    path = node.state / "tuf" / "current" / "trust" / "director.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wire.dumps(document))


def _carried(medium: Path, node: Node) -> dict[str, list[str]]:
    """Return the kinds of the records that lie in a folder for the hub, by stream."""
    key = identity.load(node.state).key.public
    me = Addressee("acme", "box-1", key, node.ledger.epoch)
    found: dict[str, list[str]] = {}
    for pack in sorted(medium.rglob("*.jsonl")):
        for line in pack.read_bytes().splitlines():
            stream = pack.parent.name
            records = open_batch(line, {key}, me, stream).records
            found.setdefault(stream, []).extend(r["kind"] for r in records)
    return found


def test_what_the_ledger_that_makes_way_had_not_sent_is_kept_for_the_hub(
    node: Node, saved: Path
) -> None:
    _with_hub(node)
    node.ledger.note(Fact(Stream.AUDIT, "since", AT, {})).result()
    node.ledger.note(Fact(Stream.METRICS, "host", AT, {})).result()
    epoch = node.ledger.epoch
    node.ledger.close()
    found = backup.restore(saved, node.state, LATER, replace=True)
    medium = Path(found.left.folder)
    assert medium == node.state / f"before-restore-{epoch}"
    kinds = _carried(medium, node)
    assert kinds["usage"] == ["t"] * 5
    assert kinds["audit"][-1] == "since"
    assert kinds["metrics"] == ["host"]
    assert found.left.records == sum(len(k) for k in kinds.values())
    second = backup.restore(saved, node.state, LATER, replace=True)
    again = Node.open(node.state)
    earlier = again.ledger.read(meta.earlier_epochs)
    assert set(earlier) == {epoch, found.epoch}
    assert second.epoch == again.ledger.epoch
    again.close()


def test_a_restore_that_was_cut_still_names_what_it_kept(
    node: Node, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_hub(node)
    node.ledger.close()

    def cut(_: Backup, name: str, target: Path) -> None:
        raise KeyboardInterrupt(name, target)

    with monkeypatch.context() as patched:
        patched.setattr(Backup, "put", cut)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(saved, node.state, LATER, replace=True)
    found = backup.restore(saved, node.state, LATER, replace=True)
    assert found.left.folder == str(node.state / f"before-restore-{node.ledger.epoch}")
    assert list(Path(found.left.folder).rglob("*.jsonl"))


def test_a_ledger_that_cannot_be_read_makes_way_and_that_is_said(node: Node, saved: Path) -> None:
    _with_hub(node)
    node.ledger.close()
    (node.state / "node.db-wal").unlink(missing_ok=True)
    (node.state / "node.db").write_bytes(b"no database" * 1000)
    found = backup.restore(saved, node.state, LATER, replace=True)
    assert "cannot be read" in found.left.why_not
    Node.open(node.state).close()


def test_records_that_no_hub_could_take_are_counted_when_they_go(
    node: Node, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrustStore, "director", lambda _: None)
    node.ledger.close()
    found = backup.restore(saved, node.state, LATER, replace=True)
    assert re.match("[1-9][0-9]* records .* are gone", found.left.why_not)


def test_no_controller_may_run_meanwhile(saved: Path, tmp_path: Path) -> None:
    state = tmp_path / "new"
    state.mkdir()
    with locked(state / "lock", what="the node"), pytest.raises(LockedError):
        backup.restore(saved, state, LATER)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda b: (b / "node.db").write_bytes(b"x"), CorruptError),
        (lambda b: (b / "identity/node.pem").unlink(), IncompleteError),
        (lambda b: (b / "backup.json").write_bytes(b"{}"), MalformedError),
    ],
)
def test_a_damaged_backup_changes_nothing(
    node: Node, saved: Path, damage: Callable[[Path], object], error: type[ApplianceError]
) -> None:
    node.ledger.close()
    before = tree(node.state)
    damage(saved)
    with pytest.raises(error):
        backup.restore(saved, node.state, LATER, replace=True)
    assert tree(node.state) == before


def test_a_restore_that_was_cut_leaves_no_node_and_may_be_run_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, real, puts, at = tmp_path / "new", Backup.put, 0, 0

    def put(self: Backup, name: str, target: Path) -> None:
        nonlocal puts
        puts += 1
        if puts == at:
            raise KeyboardInterrupt
        real(self, name, target)

    for stop_at in range(1, 30):
        at, puts = stop_at, 0
        monkeypatch.setattr(Backup, "put", put)
        try:
            backup.restore(saved, state, LATER, replace=True)
        except KeyboardInterrupt:
            assert not (state / "identity" / "node.json").exists()
            continue
        break
    else:
        raise AssertionError("it never came to the end")
    assert at > 5
    monkeypatch.undo()
    Node.open(state).close()


def test_a_backup_is_also_a_stick_of_what_was_signed_and_not_acknowledged(
    node: Node, tmp_path: Path
) -> None:

    me = identity.load(node.state)
    node.ledger.note(Fact(Stream.USAGE, "t", AT, {})).result()
    make = maker(
        Stream.USAGE, Addressee("acme", me.node, me.key.public, node.ledger.epoch), me.key, AT
    )
    node.ledger.record(lambda db: streams.seal(db, Stream.USAGE, make, most=9)).result()
    node.ledger.note(Fact(Stream.USAGE, "t", AT, {})).result()  # not signed: nobody seals it
    made = backup.make(node.state, me.node, node.ledger, tmp_path / "b", AT)
    assert made.batches == 1
    (pack,) = (tmp_path / "b").rglob("*.jsonl")
    (batch,) = node.ledger.read(lambda db: streams.unacknowledged(db, Stream.USAGE, 9))
    assert pack.read_bytes() == batch.envelope + b"\n"


def test_a_backup_carries_all_that_its_copy_of_the_ledger_holds(
    node: Node, small_bundle: Path, tmp_path: Path
) -> None:
    node.importer.run(small_bundle, "test")
    _with_hub(node)
    node.ledger.note(Fact(Stream.METRICS, "host", AT, {})).result()
    node.ledger.note(Fact(Stream.AUDIT, "backup", AT, {})).result()
    seal = carrier_of(node, SystemClock()).seal
    backup.make(node.state, NodeId("box-1"), node.ledger, tmp_path / "b", AT, seal)
    kinds = _carried(tmp_path / "b", node)
    assert kinds == {
        "audit": ["import", "backup"], "metrics": ["host"], "receipts": ["receipt"],
    }  # fmt: skip
    assert backup.restore(tmp_path / "b", tmp_path / "new", LATER).carried == 3
