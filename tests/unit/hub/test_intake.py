"""Batches on their way in: one spoils no other, and a repetition costs little."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core.ids import NodeId
from appliance.errors import NoSpaceError
from appliance.hub import intake as module
from appliance.hub import roster, store
from appliance.hub.ingest import ingest_all
from appliance.hub.intake import Arrived, Intake, Opened, Taken
from appliance.kit.commit import Effect
from appliance.sync.batch import Batch, open_batch
from appliance.trust import dsse
from appliance.trust.envelope import Slot, accept
from tests.helpers.hubs import Hub, TalkingNode


class Desk:
    """A hub, two nodes that it knows, and the intake."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder)
        self.nodes = [TalkingNode(), TalkingNode("box-2")]
        for node in self.nodes:
            self.hub.admit(node)
            said = {"dbEpoch": "e1"}
            name = node.topics.node
            report = partial(store.set_reported, name=name, payload=said, number=1, at="at")
            self.hub.db.submit(report).result()
        self.intake = Intake(self.hub.identity, self.hub.db, self.hub.clock)

    def take(self, *arrived: Arrived) -> Taken:
        return asyncio.run(self.intake.take(arrived))

    def count_effects(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        """Return a list that grows with everything that is handed to the writer."""
        effects: list[object] = []
        submit = self.hub.db.submit

        def counting(effect: Effect[Any]) -> Future[Any]:
            effects.append(effect)
            return submit(effect)

        monkeypatch.setattr(self.hub.db, "submit", counting)
        return effects

    def next(self, node: int = 0, body: object = "a") -> Arrived:
        talking = self.nodes[node]
        return come(talking.topics.node, talking.batch([body]).envelope)


def come(node: str, envelope: bytes, stream: str = "usage") -> Arrived:
    return Arrived(NodeId(node), stream, envelope, f"ea1/{node}/up/s/{stream}")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.hub.db.close()


def test_a_group_is_one_transaction_and_one_acknowledgement_a_node(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects = desk.count_effects(monkeypatch)
    taken = desk.take(desk.next(0, 1), desk.next(1, 2), desk.next(0, 3), desk.next(0, 4))
    assert (taken.heard, taken.refused, len(effects)) == ({"box-1", "box-2"}, [], 1)
    assert (desk.hub.records(), desk.hub.records("box-2")) == ([1, 3, 4], [2])
    first, second = asyncio.run(desk.intake.acknowledgements(sorted(taken.heard)))
    me = desk.nodes[0].me.fields()
    found = accept(first.payload, Slot.ACK, {desk.hub.identity.sync.public}, me)
    assert found.payload["streams"]["usage"]["upto"] == 3
    assert (first.topic, first.retained) == (desk.nodes[0].topics.ack, True)
    assert second.topic == desk.nodes[1].topics.ack


def test_the_others_of_a_group_are_taken_in(desk: Desk) -> None:
    good = desk.next()
    forged = come("box-1", dsse.sign(Slot.BATCH, b"x", desk.nodes[1].key))
    stranger = TalkingNode("box-3")
    taken = desk.take(
        forged,
        come("box-3", stranger.batch(["x"]).envelope),
        replace(good, stream="audit"),
        good,
        come("box-2", good.envelope),
    )
    assert taken.heard == {"box-1"}
    assert desk.hub.refusals() == ["signature", "scope"]
    assert desk.hub.refusals("box-2") == ["signature"]
    assert (desk.hub.records(), desk.hub.refusals("box-3")) == (["a"], [])


def test_of_a_node_that_was_revoked_nothing_is_taken_not_even_again(desk: Desk) -> None:
    first, second = desk.next(), desk.next()
    assert desk.take(first).heard == {"box-1"}
    desk.hub.db.submit(lambda c: roster.revoke(c, "box-1", "stolen", "now")).result()
    taken = desk.take(first, second)
    assert (taken.heard, [r.error.code for r in taken.refused]) == (set(), ["revoked"] * 2)
    assert (desk.hub.records(), desk.hub.refusals()) == (["a"], ["revoked"] * 2)


def test_a_repetition_is_acknowledged_again_and_not_opened_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, early = desk.next(), [desk.next(), desk.next()][1]
    desk.take(first, early)
    opened = []

    def counting(data: bytes, *rest: Any) -> Batch:
        opened.append(data)
        return open_batch(data, *rest)

    monkeypatch.setattr(module, "open_batch", counting)
    assert desk.take(first, replace(first, node=NodeId("box-2"))).heard == {"box-1"}
    assert opened == [first.envelope], "on another node's topic they are another thing"
    opened.clear()
    desk.take(early)
    assert opened == [early.envelope], "what was not committed is not known"
    assert desk.hub.records() == ["a"]


def test_only_so_many_envelopes_are_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
    desk.take(*[desk.next(body=n) for n in range(5)])
    assert len(desk.intake._lately) == 3


def test_two_contents_of_one_number_make_a_suspect(desk: Desk) -> None:
    twin = TalkingNode()
    twin.key, twin.me = desk.nodes[0].key, desk.nodes[0].me
    desk.take(desk.next())
    taken = desk.take(come("box-1", twin.batch(["another"]).envelope))
    assert [r.error.code for r in taken.refused] == ["equivocation"]
    suspects = desk.hub.db.read(lambda c: dict(c.execute("SELECT node, why FROM suspects")))
    assert suspects == {
        "box-1": "box-1: two different batches call themselves 1 of usage",
    }


def test_a_batch_that_the_database_cannot_keep_stops_no_other(desk: Desk) -> None:
    async def story() -> Taken:
        found = await desk.intake.open([desk.next(0, "bad"), desk.next(1, "good")])
        bad = found[0]
        assert isinstance(bad, Opened)
        assert bad.parcel is not None
        bad = replace(bad, parcel=replace(bad.parcel, text="{"))
        return await desk.intake.commit([bad, found[1]])

    assert asyncio.run(story()).heard == {"box-2"}
    assert (desk.hub.records(), desk.hub.records("box-2")) == ([], ["good"])
    assert desk.hub.refusals() == ["malformed"]


def test_on_a_full_disk_nothing_is_acknowledged_and_later_all_is_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = desk.next()

    def full(*_: object) -> None:
        raise NoSpaceError("no space left")

    monkeypatch.setattr(module, "ingest_all", full)
    with pytest.raises(NoSpaceError):
        desk.take(arrived)
    monkeypatch.setattr(module, "ingest_all", ingest_all)
    assert desk.take(arrived).heard == {"box-1"}
    assert desk.hub.records() == ["a"]


def test_large_groups_are_cut_so_that_a_transaction_stays_small(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_TEXT", 3000)
    effects = desk.count_effects(monkeypatch)
    desk.take(*[desk.next(0, "x" * 1000) for _ in range(4)])
    assert (len(effects), len(desk.hub.records())) == (2, 4)


def test_refusals_of_one_node_do_not_flood_the_list(desk: Desk) -> None:
    taken = desk.take(*[come("box-1", b"nonsense %d" % n) for n in range(30)])
    assert len(taken.refused) == 30
    assert desk.hub.refusals() == ["malformed"] * 5
