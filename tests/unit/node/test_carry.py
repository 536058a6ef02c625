"""What MQTT would carry goes on sticks: in any order, again, cut, for another node."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bundle.format import courier
from appliance.core import reading
from appliance.core.ids import NodeId
from appliance.errors import NotFoundError
from appliance.ledger import sealed, streams
from appliance.ledger.streams import Stream
from appliance.node import desired
from tests.helpers.carrying import Carried
from tests.helpers.models import wire_site


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Carried]:
    made = Carried(tmp_path)
    yield made
    made.close()


def files(stick: Path) -> list[str]:
    return sorted(p.relative_to(stick).as_posix() for p in stick.rglob("*") if p.is_file())


def test_a_stick_carries_the_log_home_and_the_acknowledgement_back(pair: Carried) -> None:
    pair.note(3)
    stick = pair.stick("a")
    made = pair.export(stick)
    assert made.streams["usage"] == 3
    assert f"up/box-1/batches/usage/{pair.site.ledger.epoch}-1.jsonl" in files(stick)
    (replay,) = pair.bring(stick)
    assert replay.refused == []
    assert replay.lacking == []
    assert pair.at_hub("usage") == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert replay.written == ["ack.json", "time.json"]
    assert pair.left(Stream.USAGE) == 3
    assert {t.file: t.result for t in pair.take(stick)} == {
        "time.json": "taken",
        "ack.json": "taken",
    }
    assert pair.left(Stream.USAGE) == 0


def test_the_same_stick_twice_changes_nothing_at_either_end(pair: Carried) -> None:
    pair.note(2)
    stick = pair.stick("a")
    pair.export(stick)
    pair.bring(stick)
    before = pair.desk.hub.db.read(lambda db: db.execute("SELECT * FROM records").fetchall())
    (again,) = pair.bring(stick)
    assert again.refused == []
    after = pair.desk.hub.db.read(lambda db: db.execute("SELECT * FROM records").fetchall())
    assert [tuple(r) for r in after] == [tuple(r) for r in before]
    pair.take(stick)
    second = {t.file: t.result for t in pair.take(stick)}
    assert second == {"time.json": "old", "ack.json": "taken"}
    assert pair.left(Stream.USAGE) == 0


def test_a_younger_stick_first_waits_for_the_older_one_and_says_so(pair: Carried) -> None:
    old, young = pair.stick("old"), pair.stick("young")
    pair.note(2)
    pair.export(old)
    pair.note(2)
    pair.export(young)
    for path in young.rglob("*-1.jsonl"):
        data = path.read_bytes().split(b"\n")
        if len(data) > 2:  # keep the younger batch alone, as when the older was acknowledged
            path.with_name(path.name.replace("-1.", "-3.")).write_bytes(data[1] + b"\n")
            path.unlink()
    (replay,) = pair.bring(young)
    assert replay.lacking == [f"usage: records 1 to 2 of the ledger {pair.site.ledger.epoch}"]
    assert pair.at_hub("usage") == []
    pair.bring(old)
    assert len(pair.at_hub("usage")) == 2
    (replay,) = pair.bring(young)
    assert replay.lacking == []
    assert len(pair.at_hub("usage")) == 4


def test_what_was_acknowledged_makes_room_and_other_ledgers_batches_stay(pair: Carried) -> None:
    pair.note(2)
    stick = pair.stick("a")
    pair.export(stick)
    folder = courier.batches_folder(stick, "box-1", "usage")
    (folder / "0123456789abcdef-1.jsonl").write_bytes(b"of an earlier ledger")
    pair.bring(stick)
    pair.take(stick)
    pair.export(stick)
    assert [p.name for p in folder.iterdir()] == ["0123456789abcdef-1.jsonl"]


def test_the_fleets_word_comes_by_stick_and_an_older_one_is_old(pair: Carried) -> None:
    first, second = pair.stick("first"), pair.stick("second")
    pair.export(first)
    pair.export(second)
    pair.wish(reading.from_wire(wire_site("one"), "test"))
    pair.bring(first)
    pair.wish(reading.from_wire(wire_site("two"), "test"))
    pair.bring(second)
    results = {t.file: t for t in pair.take(second)}
    assert results["desired.json"].result == "taken"
    assert pair.site.ledger.read(desired.fleet).generation == 2
    old = {t.file: t for t in pair.take(first)}["desired.json"]
    assert old.result == "old"
    assert old.error is not None
    assert old.error["exit"] == 30
    assert pair.site.ledger.read(desired.fleet).generation == 2


def test_a_stick_for_another_node_is_not_taken(pair: Carried, tmp_path: Path) -> None:
    other = Carried(tmp_path / "elsewhere", name="box-2")
    stick = pair.stick("a")
    pair.note(1)
    pair.export(stick)
    pair.bring(stick)
    (stick / "dn" / "box-1").rename(stick / "dn" / "box-2")
    taken = other.take(stick)
    assert {t.result for t in taken} == {"refused"}
    other.close()
    with pytest.raises(NotFoundError, match="carries nothing for box-1"):
        pair.take(stick)


def test_one_changed_message_is_refused_and_keeps_nothing_else_out(pair: Carried) -> None:
    pair.note(1)
    pair.note(1, Stream.EVENTS)
    stick = pair.stick("a")
    pair.export(stick)
    (path,) = courier.batches_folder(stick, "box-1", "usage").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    (replay,) = pair.bring(stick)
    assert len(replay.refused) == 1
    assert replay.refused[0]["code"] in ("signature", "malformed")
    assert pair.at_hub("usage") == []
    assert pair.at_hub("events") == [{"n": 0}]
    assert pair.desk.hub.refusals() == [replay.refused[0]["code"]]


def test_a_stranger_keeps_nobody_else_out(pair: Carried) -> None:
    pair.note(1)
    stick = pair.stick("a")
    pair.export(stick)
    (stick / "up" / "a-stranger" / "batches" / "usage").mkdir(parents=True)
    strange = stick / "up" / "a-stranger" / "batches" / "usage" / "e-1.jsonl"
    strange.write_bytes(b"{}\n")
    stranger, ours = pair.bring(stick)
    assert [r["code"] for r in stranger.refused] == ["not-found"]
    assert ours.refused == []
    assert pair.at_hub("usage") == [{"n": 0}]


def test_what_is_too_long_or_no_file_is_not_read(pair: Carried) -> None:
    stick = pair.stick("a")
    pair.export(stick)
    pair.bring(stick)
    down = courier.answers_folder(stick, "box-1")
    (down / "ack.json").write_bytes(b"x" * (65 << 10))
    (down / "cmd-..json").write_bytes(b"{}")
    (down / "notes.txt").write_bytes(b"{}")
    letters = list(courier.downward(stick, NodeId("box-1")))
    assert [letter.path.name for letter in letters] == ["time.json", "ack.json"]
    results = {t.file: t.result for t in pair.take(stick)}
    assert results == {"time.json": "taken", "ack.json": "refused"}
    (down / "ack.json").unlink()
    os.mkfifo(down / "ack.json")
    with pytest.raises(Exception, match="not a regular file"):
        list(courier.downward(stick, NodeId("box-1")))


def test_commands_come_in_the_order_of_their_counters(pair: Carried) -> None:
    stick = pair.stick("a")
    down = courier.answers_folder(stick, "box-1")
    courier.write(stick, down, {courier.down_name("cmd", str(n)): b"{}" for n in (10, 9, 100, 2)})
    letters = list(courier.downward(stick, NodeId("box-1")))
    assert [letter.name for letter in letters] == ["2", "9", "10", "100"]
    with pytest.raises(ValueError, match="cannot be carried"):
        courier.down_name("cmd", "../x")


def test_links_on_a_stick_lead_nowhere(pair: Carried) -> None:
    real, stick = pair.stick("real"), pair.stick("links")
    pair.note(1)
    pair.export(real)
    pair.bring(real)
    for name in ("up", "dn"):
        (stick / name).mkdir()
        (stick / name / "box-1").symlink_to(real / name / "box-1")
    assert list(courier.downward(stick, NodeId("box-1"))) == []
    assert list(courier.upward(stick, NodeId("box-1"))) == []
    assert list(courier.receipts(stick)) == []
    folder = courier.batches_folder(stick, "box-1", "usage")
    before = files(real)
    courier.sweep(stick, folder, pair.site.ledger.epoch, ())
    assert files(real) == before


def test_before_a_bundle_named_the_director_receipts_go_alone(pair: Carried) -> None:
    (pair.site.folder / "tuf" / "current" / "trust" / "director.json").unlink()
    stick = pair.stick("a")
    made = pair.export(stick)
    assert "receipts alone" in made.why_not
    assert all("/receipts/" in name for name in files(stick))


def test_packs_end_before_they_grow_too_large_and_hold_every_batch_once(pair: Carried) -> None:
    for _ in range(3):
        pair.note(600)
        pair.export(pair.stick("a"))
    ledger = pair.site.ledger
    whole = ledger.read(lambda db: streams.unacknowledged(db, Stream.USAGE, 1000))
    for most in (1, 5_000, 1 << 20):
        packs = list(sealed.packs(ledger, Stream.USAGE, most))
        lines = [line for pack in packs for line in pack.data.splitlines()]
        assert lines == [batch.envelope for batch in whole]
        assert sum(pack.records for pack in packs) == 1800
        assert all(len(p.data) <= most or p.batches == 1 for p in packs)
        assert [p.first for p in packs] == sorted(p.first for p in packs)
