"""Receipts at the hub: in any order, again, cut, cloned; and the time as an answer."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.format import courier
from appliance.bundle.format.courier import Carried
from appliance.core import wire
from appliance.core.ids import NodeId, node_id
from appliance.errors import NotFoundError, ReplayError, SignatureError
from appliance.hub import carrier, store
from appliance.hub import receipts as hub_receipts
from appliance.hub.view import State, suspected, view
from appliance.kit.clock import parse_rfc3339
from appliance.ledger import receipts, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Stream
from appliance.sync import batch as batches
from appliance.sync import mqtt
from appliance.sync.batch import Batch
from appliance.trust import receipt
from tests.fakes.broker import FakeBroker
from tests.helpers.hubs import TalkingNode
from tests.helpers.signing import new_key
from tests.helpers.sticks import Desk, Site, digest
from tests.helpers.waiting import until

IMPORTED = receipt.imported("small", "1.0.0")
SYNC = new_key()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "hub", SYNC)
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, desk: Desk) -> Iterator[Site]:
    made = Site(tmp_path / "node", SYNC)
    desk.admit(made)
    yield made
    made.close()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    made = tmp_path / "stick"
    made.mkdir()
    return made


def envelopes(site: Site) -> list[dict[str, Any]]:
    rows = site.ledger.read(receipts.rows)
    return [wire.loads(r.envelope, what="it") for r in rows]


def results(answer: dict[str, Any]) -> list[str]:
    return [r["result"] for r in answer["results"]]


def test_receipts_are_taken_in_once_however_often_they_come(desk: Desk, site: Site) -> None:
    for _ in range(3):
        site.make(IMPORTED)
    data = envelopes(site)
    assert results(desk.post("box-1", data[::-1])) == ["new"] * 3
    assert results(desk.post("box-1", data)) == ["known"] * 3
    (found,) = desk.chains()
    assert (found.receipts, found.upto, found.gaps, found.forks) == (3, 3, (), ())
    assert found.head == site.opened()[-1].hash


def test_what_has_not_come_yet_is_a_gap_until_it_comes(desk: Desk, site: Site) -> None:
    for _ in range(6):
        site.make(IMPORTED)
    data = envelopes(site)
    desk.post("box-1", [data[2], data[5]])
    assert desk.chains()[0].gaps == ((1, 2), (4, 5))
    desk.post("box-1", data)
    assert desk.chains()[0].gaps == ()


def test_a_receipt_of_a_stranger_or_a_changed_one_is_refused(desk: Desk, site: Site) -> None:
    site.make(IMPORTED)
    (good,) = envelopes(site)
    key, payload = new_key(), receipt.payload_of(wire.dumps(good))
    forged = receipt.sign({**payload, "nodeKey": key.public}, key)[0]
    other = receipt.sign({**payload, "node": "box-2"}, site.key)[0]
    bad = [wire.loads(e, what="it") for e in (forged, other)]
    answer = desk.post("box-1", [*bad, good])
    assert results(answer) == ["refused", "refused", "new"]
    assert [r["code"] for r in answer["results"][:2]] == ["signature", "scope"]
    assert desk.hub.refusals() == ["signature", "scope"]
    with pytest.raises(NotFoundError):
        desk.post("box-9", [good])


def test_two_contents_of_one_number_are_kept_and_shown(desk: Desk, site: Site) -> None:
    """A state folder that was copied, or put back from an image, goes on under one key."""
    site.make(IMPORTED)
    (first,) = envelopes(site)
    payload = receipt.payload_of(wire.dumps(first))
    twins = [
        wire.loads(receipt.sign({**payload, "store": [digest(n)]}, site.key)[0], what="it")
        for n in range(7, 10)
    ]
    answers = [results(desk.post("box-1", [e])) for e in (first, *twins, first)]
    assert answers == [["new"], *[["equivocation"]] * 3, ["known"]]
    (found,) = desk.chains()
    assert (found.receipts, found.forks) == (2, (1,)), "two are proof enough"
    assert set(desk.hub.refusals()) == {"equivocation"}
    suspects = desk.hub.db.read(hub_receipts.suspects)
    shown = suspected(view(desk.hub.row(), None, desk.clock.utc(), 30), suspects.get("box-1"))
    assert shown.state is State.SUSPECT
    assert "receipt 1" in shown.why


@pytest.mark.parametrize(
    "changes",
    [
        {"previous": "ab" * 32},
        {"audit": {"seq": 1, "hash": "cd" * 32}},
        {"audit": {"seq": 0, "hash": "00" * 32}},
    ],
)
def test_a_second_history_shows_in_what_a_receipt_continues(
    desk: Desk, site: Site, changes: dict[str, Any]
) -> None:
    for _ in range(2):
        site.make(IMPORTED)
    first, second = envelopes(site)
    payload = {**receipt.payload_of(wire.dumps(second)), **changes}
    forked = wire.loads(receipt.sign(payload, site.key)[0], what="it")
    desk.post("box-1", [first, forked])
    assert desk.chains()[0].forks == (2,)


def test_a_stick_comes_home_and_takes_the_time_back(desk: Desk, site: Site, stick: Path) -> None:
    site.make(IMPORTED)
    site.book.export(stick)
    (found,) = desk.take(stick)
    assert (found.node, found.new, found.answered, found.refused) == ("box-1", 2, True, [])
    assert site.answers.take_folder(stick).time == "2026-12-01T00:00:00.000Z"
    (again,) = desk.take(stick)
    assert (again.new, again.known) == (0, 2)


def test_a_node_that_asks_no_more_is_not_answered(desk: Desk, site: Site, stick: Path) -> None:
    site.book.export(stick)
    site.answers.take_time(site.answer(desk.clock.utc()))
    site.make(IMPORTED)
    assert desk.post("box-1", envelopes(site))["time"] is None
    (found,) = desk.take(stick)
    assert not found.answered
    assert not (stick / "dn").exists()


def test_the_newest_ledger_is_answered(desk: Desk, site: Site, stick: Path) -> None:
    site.book.export(stick)
    desk.take(stick)
    lose_ledger(site)
    site.book.export(stick)
    (found,) = desk.take(stick)
    assert len(found.chains) == 2
    site.answers.take_folder(stick)


def test_a_late_stick_of_an_older_ledger_does_not_become_the_newest(desk: Desk, site: Site) -> None:
    site.make(IMPORTED)
    older = envelopes(site)
    lose_ledger(site)
    site.clock.move(60)
    site.ask()
    site.make(IMPORTED)
    desk.post("box-1", envelopes(site))
    assert desk.post("box-1", older)["time"] is not None
    assert desk.chains()[-1].epoch == site.ledger.epoch


@pytest.mark.parametrize(
    "bodies",
    [
        [{"seq": 1, "part": 2, "of": 2, "text": "x"}],
        [{"seq": 1, "part": 1, "of": 2, "text": "x"}, {"seq": 2, "part": 2, "of": 2, "text": "x"}],
        [{"seq": 1, "part": 0, "of": 0, "text": ""}],
        [{"seq": 1, "part": "1", "of": "1", "text": ""}],
        [{"seq": 1, "part": 10**9, "of": 10**9, "text": ""}],
        [{"omitted": {"bytes": 1}}],
        ["not an object"],
    ],
)
def test_pieces_that_make_no_receipt_are_noted_and_hold_up_nothing(
    desk: Desk, bodies: list[Any]
) -> None:
    node = TalkingNode()
    desk.hub.admit(node)
    records = tuple({"at": "now", "kind": "receipt", "body": body} for body in bodies)
    batch = Batch("receipts", "e1", 1, "", "hash", records)
    row = desk.hub.row()

    def effect(db: sqlite3.Connection) -> None:
        store.ingest(db, "box-1", batch, "now")
        hub_receipts.take_batch(db, row, "acme", batch, "now")

    desk.hub.db.submit(effect).result()
    assert set(desk.hub.refusals()) == {"malformed"}
    assert (desk.hub.records(stream="receipts"), desk.chains()) == (list(bodies), [])


def test_strangers_and_damage_keep_nobody_else_out(desk: Desk, site: Site, stick: Path) -> None:
    site.book.export(stick)
    site.make(IMPORTED)
    site.book.export(stick)
    epoch = site.ledger.epoch
    stranger = courier.receipts_folder(stick, "a-stranger")
    courier.write(stick, stranger, {"e-1.json": wire.dumps(envelopes(site)[0])})
    mine = courier.receipts_folder(stick, "box-1")
    (mine / f"{epoch}-1.json").write_bytes(b"{not json")
    first, second = desk.take(stick)
    assert [r["code"] for r in first.refused] == ["not-found"]
    assert [r["code"] for r in second.refused] == ["malformed"]
    assert second.new == 1
    assert desk.chains()[0].gaps == ((1, 1),)


def test_an_empty_stick_is_said(desk: Desk, stick: Path) -> None:
    with pytest.raises(NotFoundError, match="no receipts"):
        desk.take(stick)


def test_over_a_link_receipts_come_as_records_and_the_time_goes_back(
    desk: Desk, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = FakeBroker()
    monkeypatch.setattr(mqtt, "connect", broker.connect)
    site.held = [digest(n) for n in range(1500)]
    site.ask()
    site.make(IMPORTED)
    site.make(receipt.refused(SignatureError("not signed")))
    envelopes = sealed(site)
    assert len(envelopes) > 1, "one receipt travels in more batches than one"

    async def story() -> None:
        task = asyncio.create_task(desk.hub.service.run())
        await until(lambda: desk.hub.service.connected)
        for data in envelopes * 2:
            broker.publish("ea1/box-1/up/s/receipts", data)
        await until(lambda: desk.chains() and desk.chains()[0].upto == 2)
        await until(lambda: broker.on("ea1/box-1/dn/time"))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert desk.chains()[0].receipts == 2
    time = broker.on("ea1/box-1/dn/time")[-1]
    assert site.answers.take_time(time).time == "2026-12-01T00:00:00.000Z"
    with pytest.raises(ReplayError):
        site.answers.take_time(time)
    assert site.floor() == parse_rfc3339("2026-12-01T00:00:00.000Z")


def lose_ledger(site: Site) -> None:
    site.close()
    (site.folder / "node.db").unlink()
    site.ledger = Ledger(site.folder / "node.db")
    site.sign_offline(site.clock.utc())
    site.book._ledger = site.answers._ledger = site.ledger


def sealed(site: Site) -> list[bytes]:
    make = batches.maker(Stream.RECEIPTS, site.me, site.key, "2026-12-01T00:00:00.000Z")
    while site.ledger.record(
        lambda db: streams.seal(db, Stream.RECEIPTS, make, most=batches.MOST_RECORDS)
    ).result():
        pass
    found = site.ledger.read(lambda db: streams.unacknowledged(db, Stream.RECEIPTS, 99))
    return [b.envelope for b in found]


def test_a_stick_full_of_receipts_is_handed_in_as_it_is_read(
    stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, posted = [0], [0]

    def many(_: Path) -> Iterator[Carried]:
        for number in range(20):
            read[0] += 1
            yield Carried(node_id("box-1"), stick / str(number), wire.dumps({"x": "y" * 400_000}))

    def post(_: NodeId, envelopes: list[dict[str, Any]]) -> dict[str, Any]:
        posted[0] += len(envelopes)
        assert read[0] - posted[0] <= 1, "no more lies in memory than is handed in at once"
        return {"results": [{"result": "known"}] * len(envelopes), "time": None, "chains": []}

    monkeypatch.setattr(courier, "receipts", many)
    (delivery,) = carrier.import_folder(stick, post)
    assert delivery.known == 20
