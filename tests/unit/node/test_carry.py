"""What MQTT would carry goes on sticks: in any order, again, cut, for another node."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.bundle.format import courier
from appliance.core import reading
from appliance.core.ids import NodeId
from appliance.errors import NoSpaceError, NotFoundError
from appliance.hub.carrier import import_letters
from appliance.ledger import sealed, streams
from appliance.ledger.streams import Fact, Stream
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


def messages(stick: Path) -> Iterator[bytes]:
    for path in (stick / "up").rglob("*.json*"):
        if path.parent != courier.receipts_folder(stick, "box-1"):
            yield from path.read_bytes().splitlines()


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
    assert (again.taken, again.known) == (0, sum(1 for _ in messages(stick)))
    after = pair.desk.hub.db.read(lambda db: db.execute("SELECT * FROM records").fetchall())
    assert [tuple(r) for r in after] == [tuple(r) for r in before]
    pair.take(stick)
    second = {t.file: t.result for t in pair.take(stick)}
    assert second == {"time.json": "old", "ack.json": "old"}
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
    assert replay.early == 1
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
    (down / "cmd-3.json").symlink_to("/etc/passwd")
    taken = {t.file: t for t in pair.take(stick)}
    assert {t.file: t.result for t in taken.values()} == {
        "time.json": "old",
        "ack.json": "refused",
        "cmd-3.json": "refused",
    }
    assert "ack.json is not a regular file" in str(taken["ack.json"].error)
    assert "cmd-3.json cannot be read: it is a link" in str(taken["cmd-3.json"].error)


@pytest.mark.parametrize(
    "place",
    [
        "up/aaa-evil/reported.json",
        "up/aaa-evil/receipts/e-1.json",
        "up/aaa-evil/batches",
        "up/aaa-evil/batches/usage",
        "up/box-1/receipts/e-0.json",
        "up/box-1/batches/aaa",
        "up/box-1/cmd-3.json",
        "up/box-1/csr.json",
    ],
)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_cannot_be_read_is_refused_alone_and_the_rest_is_taken_and_answered(
    pair: Carried, place: str, kind: str
) -> None:
    pair.note(2)
    stick = pair.stick("a")
    pair.export(stick)
    bad = stick / place
    bad.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        bad.symlink_to("/etc/passwd")
    else:
        os.mkfifo(bad)
    deliveries = pair.desk.take(stick)
    replays = import_letters(stick, pair.post, pair.ask)
    said = [r for d in deliveries for r in d.refused] + [r for d in replays for r in d.refused]
    refused = {r["what"]: r for r in said}
    assert len(refused) == 1
    ((what, error),) = refused.items()
    assert str(bad) in what
    assert error["exit"] == 26
    assert "export again" in error["hint"]
    assert pair.at_hub("usage") == [{"n": 0}, {"n": 1}]
    assert {t.file: t.result for t in pair.take(stick)} == {
        "time.json": "taken",
        "ack.json": "taken",
    }


def test_answers_that_cannot_be_written_are_said_when_the_records_are_in(pair: Carried) -> None:
    pair.note(2)
    stick = pair.stick("a")
    pair.export(stick)
    elsewhere = pair.stick("elsewhere")
    (stick / "dn").symlink_to(elsewhere)
    (delivery,) = pair.desk.take(stick)
    (replay,) = import_letters(stick, pair.post, pair.ask)
    assert (delivery.refused, replay.refused) == ([], [])
    assert pair.at_hub("usage") == [{"n": 0}, {"n": 1}]
    for unwritten in (delivery.unwritten, replay.unwritten):
        assert unwritten is not None
        assert unwritten["exit"] == 6
        assert "dn is there, but is not a folder" in unwritten["what"]
        assert unwritten["hint"]
    assert list(elsewhere.iterdir()) == []
    with pytest.raises(NotFoundError, match="carries nothing"):
        pair.take(pair.stick("empty"))
    (found,) = pair.take(stick)
    assert (found.file, found.result) == ("box-1", "refused")


def test_a_write_protected_stick_is_taken_in(
    pair: Carried, small_disk: Path, make_read_only: Callable[[], None]
) -> None:
    pair.note(2)
    pair.export(small_disk)
    make_read_only()
    (delivery,) = pair.desk.take(small_disk)
    (replay,) = import_letters(small_disk, pair.post, pair.ask)
    assert pair.at_hub("usage") == [{"n": 0}, {"n": 1}]
    for unwritten in (delivery.unwritten, replay.unwritten):
        assert unwritten is not None
        assert unwritten["exit"] == 6
        assert "Read-only" in unwritten["what"]


@pytest.mark.slow
def test_a_nearly_full_stick_takes_the_oldest_files_and_says_what_is_left(
    pair: Carried, small_disk: Path
) -> None:
    for _ in range(4):
        pair.export(pair.stick("other"))
        bodies = [{"x": os.urandom(1000).hex()} for _ in range(300)]
        pair.site.ledger.note(*(Fact(Stream.USAGE, "test", "now", b) for b in bodies)).result()
    with pytest.raises(NoSpaceError) as caught:
        pair.export(small_disk)
    found = re.search(r"is full: (\d+) written, (\d+) files? of [0-9.]+ [KM]iB", caught.value.what)
    assert found is not None
    there = [p for p in small_disk.rglob("*") if p.is_file()]
    assert int(found[1]) == len(there) > 0
    packs = courier.batches_folder(small_disk, "box-1", "usage")
    firsts = sorted(courier.pack_of(p.name)[1] for p in packs.iterdir())
    assert firsts[0] == 1
    assert "disk" not in caught.value.what.replace(str(small_disk), "") + str(caught.value.hint)
    assert "another stick" in str(caught.value.hint)
    (replay,) = pair.bring(small_disk)
    assert (replay.refused, replay.lacking) == ([], [])
    before = pair.left(Stream.USAGE)
    pair.take(small_disk)
    assert pair.left(Stream.USAGE) < before
    for _ in range(4):  # what came home makes room for the rest
        with contextlib.suppress(NoSpaceError):
            pair.export(small_disk)
        pair.bring(small_disk)
        pair.take(small_disk)
    assert pair.left(Stream.USAGE) == 0


def test_a_cut_file_is_named_with_its_line_and_what_to_do(pair: Carried) -> None:
    pair.note(1)
    stick = pair.stick("a")
    pair.export(stick)
    (path,) = courier.batches_folder(stick, "box-1", "usage").iterdir()
    path.write_bytes(path.read_bytes() + b'{"cut\n')
    report = courier.up_folder(stick, "box-1") / "reported.json"
    report.write_bytes(b"{")
    (replay,) = pair.bring(stick)
    cut, short = replay.refused
    assert f"{path}, line 2: " in cut["what"]
    assert f"{report}: " in short["what"]
    assert {r["hint"] for r in replay.refused} == {"export again from the node"}
    report.write_bytes(b"")
    path.unlink()
    (replay,) = pair.bring(stick)
    assert [r["what"] for r in replay.refused] == [f"{report} is empty"]


def test_a_stick_of_another_organisation_is_said_once_and_not_written_to(
    pair: Carried, tmp_path: Path
) -> None:
    other = Carried(tmp_path / "elsewhere")
    stick = pair.stick("a")
    other.note(3)
    other.note(3, Stream.EVENTS)
    other.export(stick)
    other.close()
    (delivery,) = pair.desk.take(stick)
    (replay,) = import_letters(stick, pair.post, pair.ask)
    assert {r["what"] for r in [*delivery.refused, *replay.refused]} == {
        "what up/box-1 holds is of another organisation, or of another machine called box-1"
    }
    assert (len(delivery.refused), len(replay.refused)) == (1, 1)
    assert not (stick / "dn").exists()


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
    box = NodeId("box-1")
    for found in (
        courier.downward(stick, box),
        courier.upward(stick, box),
        courier.receipts(stick),
    ):
        assert {str(each.error).rpartition("/")[2] for each in found} == {
            "box-1 is a link, and links are not followed"
        }
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
