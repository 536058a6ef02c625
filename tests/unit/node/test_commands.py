"""Commands at a node: each step is a defence, and nothing is ever carried out twice."""

import asyncio
import datetime
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.commands import Command, State
from appliance.errors import EngineError, NoSpaceError, RefusedError
from appliance.ledger import commands as rows
from appliance.ledger import meta, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.node.commands import CommandInbox, Hands
from appliance.trust import dsse
from appliance.trust.documents import DIRECTOR_PATH
from appliance.trust.envelope import Addressee, Slot, accept, seal
from tests.helpers.signing import InForce, new_key
from tests.helpers.waiting import StillClock

DIRECTOR, SYNC, NODE_KEY, STRANGER = new_key(), new_key(), new_key(), new_key()
MINUTES = datetime.timedelta(minutes=10)
RESTART = {"verb": "restart-engine", "args": {"deployment": "notes"}}


class Box:
    """A node that is commanded, and the hub's hand that signs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "node.db")
        self.me = Addressee("acme", "box-1", NODE_KEY.public, self.ledger.epoch)
        self.in_tuf = InForce(folder / "tuf")
        self.clock = StillClock()
        self.done: list[str] = []
        self.fails: Exception | None = None
        self.blocked = ""
        self.said: list[dict[str, Any]] = []
        self.name_director()
        self.start()

    def start(self, verbs: str = "restart-engine, hold") -> None:
        """Begin as a controller begins."""
        hands = Hands(self._do, verbs, self._may_begin)
        me, trust = self.me, self.in_tuf.trust
        self.inbox = CommandInbox(me, NODE_KEY, trust, self.ledger, self.clock, hands)
        self.inbox.say = self._say

    def name_director(self, epoch: int = 2, **changes: Any) -> None:
        keys = {"keys": [DIRECTOR.public], "sync": [SYNC.public]}
        document = {
            "org": "acme", "epoch": epoch, **keys, "sites": ["*"],
            "verbs": ["restart-engine", "run-golden-prompts"], **changes,
        }  # fmt: skip
        self.in_tuf.documents[DIRECTOR_PATH] = wire.dumps(document)
        self.in_tuf.put()

    async def _do(self, command: Command) -> dict[str, Any]:
        row = self.ledger.read(lambda db: rows.find(db, command.counter))
        assert row is not None
        assert row.state is State.STARTED, "the counter is committed before the effect"
        self.done.append(command.id)
        if self.fails is not None:
            raise self.fails
        return {"ran": command.id}

    def _may_begin(self) -> None:
        if self.blocked:
            raise NoSpaceError(self.blocked)

    def _say(self, topic: str, payload: bytes) -> None:
        found = accept(payload, Slot.OUTCOME, {NODE_KEY.public}, self.me.fields()).payload
        assert topic == f"ea1/box-1/up/cmd/{found['id']}"
        self.said.append(found)

    def command(self, counter: int = 1, **changes: Any) -> bytes:
        how: dict[str, Any] = {
            "to": self.me, "key": DIRECTOR, "slot": Slot.COMMAND, "issued": self.clock.utc(),
        }  # fmt: skip
        how.update({k: changes.pop(k) for k in list(changes) if k in how})
        body = {"directorEpoch": 2, "counter": counter, **RESTART, **changes}
        return seal(how["slot"], how["to"], body, how["key"], issued=how["issued"],
                    lifetime=MINUTES)  # fmt: skip

    def send(self, *data: bytes) -> None:
        async def all_of_them() -> None:
            for one in data:
                await self.inbox.command(one)
            await self.inbox.idle()

        asyncio.run(all_of_them())

    def refused(self, data: bytes, code: int) -> RefusedError:
        """Send what must be refused with this exit status, and begins nothing."""
        before = list(self.done)
        with pytest.raises(RefusedError) as caught:
            self.send(data)
        assert caught.value.exit_code == code, caught.value
        assert self.done == before
        return caught.value

    def states(self) -> list[str]:
        return [said["state"] for said in self.said]

    def audit(self) -> list[tuple[str, Any]]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 100)))
        return [(r.record["kind"], r.record["body"]) for r in found]

    def acknowledge_all(self) -> None:
        """Have the hub acknowledge the audit stream as far as it goes."""

        def make(_: Position, found: list[Record]) -> SealedBatch:
            return SealedBatch(Stream.AUDIT, found[0].seq, len(found), "hash", b"")

        self.ledger.record(lambda db: streams.seal(db, Stream.AUDIT, make, most=100)).result()
        upto = self.ledger.read(lambda db: streams.position(db, Stream.AUDIT)).sealed_upto
        self.ledger.record(lambda db: streams.acknowledge(db, Stream.AUDIT, upto, "hash")).result()


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.ledger.close()


def test_a_command_is_audited_carried_out_and_answered(box: Box) -> None:
    box.send(box.command(1))
    assert box.done == ["1"]
    (said,) = box.said
    assert (said["state"], said["result"], said["verb"]) == ("done", {"ran": "1"}, RESTART["verb"])
    (began, first), (ended, second) = box.audit()
    assert (began, first["id"], first["args"]) == ("command-started", "1", RESTART["args"])
    assert (ended, second["id"], second["state"]) == ("command-ended", "1", "done")


def test_a_repetition_is_answered_and_not_carried_out(box: Box) -> None:
    data = box.command(1)
    box.send(data, data)
    box.send(data)
    assert box.done == ["1"]
    assert set(box.states()) == {"done"}
    assert len(box.states()) >= 2
    box.clock.move(3600)
    box.send(data)
    assert (box.done, box.states()[-1]) == (["1"], "done"), "also when it has expired by now"


def test_commands_run_one_after_the_other_in_their_order(box: Box) -> None:
    box.send(*[box.command(n) for n in (1, 2, 5)])
    assert box.done == ["1", "2", "5"]


def test_no_two_are_carried_out_at_the_same_time(box: Box) -> None:
    running: list[int] = []

    async def alone(command: Command) -> dict[str, Any]:
        running.append(command.counter)
        assert len(running) == 1
        while box.ledger.read(rows.last) < 3:
            await asyncio.sleep(0.001)  # until all three were begun
        running.remove(command.counter)
        return {}

    hands = Hands(alone, "restart-engine")
    box.inbox = CommandInbox(box.me, NODE_KEY, box.in_tuf.trust, box.ledger, box.clock, hands)
    box.inbox.say = box._say
    box.send(*[box.command(n) for n in (1, 2, 3)])
    assert box.states() == ["done"] * 3


def test_what_fails_is_an_outcome(box: Box) -> None:
    box.fails = EngineError("it does not come up")
    box.send(box.command(1))
    box.fails = ZeroDivisionError()
    box.send(box.command(2))
    assert box.states() == ["failed", "failed"]
    assert [s["why"] for s in box.said] == ["it does not come up", "a bug: ZeroDivisionError"]


def test_form_type_signature_and_addressee_come_first(box: Box) -> None:
    box.refused(b"x" * (dsse.MAX_ENVELOPE_BYTES + 1), 27)
    box.refused(b"not JSON", 27)
    for slot in (Slot.DESIRED, Slot.ACK, Slot.OUTCOME):
        box.refused(box.command(slot=slot), 27)
    for key in (STRANGER, SYNC, NODE_KEY):
        box.refused(box.command(key=key), 20)
    for other in ({"org": "o"}, {"node": "box-2"}, {"node_key": "00"}, {"db_epoch": "0" * 16}):
        box.refused(box.command(to=replace(box.me, **other)), 28)
    assert box.said == [], "what is not the director's word is not answered"
    assert box.ledger.read(rows.last) == 0


def test_a_replaced_director_is_refused_and_a_new_one_waits_for_its_bundle(box: Box) -> None:
    box.refused(box.command(1, directorEpoch=1), 29)
    box.send(box.command(1, directorEpoch=3))
    assert box.done == []
    box.name_director(epoch=3)

    async def again() -> None:
        await box.inbox.look_again()
        await box.inbox.idle()

    asyncio.run(again())
    assert box.done == ["1"]


def test_before_any_bundle_named_a_director_commands_wait(box: Box) -> None:
    director = box.in_tuf.documents.pop(DIRECTOR_PATH)
    box.in_tuf.put()
    box.send(box.command(1))
    assert box.done == []
    box.in_tuf.documents[DIRECTOR_PATH] = director
    box.in_tuf.put()

    async def again() -> None:
        await box.inbox.look_again()
        await box.inbox.idle()

    asyncio.run(again())
    assert box.done == ["1"]


def test_an_expired_command_is_refused_and_the_hub_is_told(box: Box) -> None:
    data = box.command(1)
    box.clock.move(600)
    box.refused(data, 21)
    assert box.states() == ["refused"]
    assert box.said[0]["why"].startswith("expired: ")
    assert box.audit()[0][1]["code"] == "expired"


def test_counters_only_grow(box: Box) -> None:
    old = box.command(1)
    box.send(box.command(3))
    box.refused(old, 30)
    box.refused(box.command(3, args={"deployment": "other"}), 31)
    box.send(box.command(4))
    box.refused(box.command(3, args={"deployment": "other"}), 31)
    assert box.done == ["3", "4"]


def test_a_verb_is_limited_by_the_director_and_by_the_site(box: Box) -> None:
    box.refused(box.command(verb="hold", args={"deployment": "a", "reason": "x"}), 28)
    box.refused(box.command(verb="run-golden-prompts"), 28)
    box.refused(box.command(verb="reboot"), 27)
    box.refused(box.command(args={"deployment": "/etc"}), 27)
    box.refused(box.command(counter=-1), 27)
    box.start(verbs="")
    box.refused(box.command(1), 28)
    assert box.ledger.read(rows.last) == 0, "a refusal uses up no counter"


def test_under_unproven_time_a_command_needs_this_nodes_nonce(box: Box) -> None:
    box.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    issued = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    nonce = box.ledger.record(rows.draw_nonce).result()
    box.refused(box.command(1, issued=issued), 21)
    box.refused(box.command(1, issued=issued, nonce="0" * 64), 30)
    box.send(box.command(1, issued=issued, nonce=nonce))
    assert box.done == ["1"]
    box.refused(box.command(2, issued=issued, nonce=nonce), 30)
    fresh = box.ledger.record(rows.draw_nonce).result()
    assert fresh != nonce
    box.send(box.command(2, issued=issued, nonce=fresh))
    assert box.done == ["1", "2"]


def test_the_floor_makes_a_command_expire_whatever_the_clock_says(box: Box) -> None:
    data = box.command(1)
    floor = box.clock.utc() + datetime.timedelta(days=1)
    box.ledger.record(lambda db: meta.add_floor_row(db, "aa" * 32, floor, online=False)).result()
    box.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    box.refused(data, 21)


def test_a_full_disk_begins_nothing_and_uses_up_nothing(box: Box) -> None:
    box.blocked = "the disk is full"
    data = box.command(1)
    with pytest.raises(NoSpaceError):
        box.send(data)
    assert (box.done, box.ledger.read(rows.last)) == ([], 0)
    box.blocked = ""
    box.send(data)
    assert box.done == ["1"]


def test_what_was_begun_before_a_crash_is_unknown_and_never_runs_again(box: Box) -> None:
    data = box.command(1)

    async def killed_in_the_middle() -> None:
        await box.inbox.command(data)  # committed; the loop ends before the effect's turn

    async def stuck(_: Command) -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {}

    hands = Hands(stuck, "restart-engine")
    box.inbox = CommandInbox(box.me, NODE_KEY, box.in_tuf.trust, box.ledger, box.clock, hands)
    asyncio.run(killed_in_the_middle())
    assert [r.counter for r in box.ledger.read(rows.begun)] == [1]

    box.start()
    assert asyncio.run(box.inbox.settle()) == 1
    assert (box.states(), box.done) == (["unknown"], [])
    assert box.audit()[-1] == (
        "command-ended",
        {"id": "1", "verb": "restart-engine", "state": "unknown", "why": box.said[0]["why"]},
    )
    box.send(data)
    assert (box.states(), box.done) == (["unknown", "unknown"], [])
    assert asyncio.run(box.inbox.settle()) == 0


def test_a_full_disk_at_the_start_keeps_no_node_from_starting(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.ledger.record(lambda db: rows.start(db, 1, "hash", "hold", "now")).result()

    def full(*_: Any) -> None:
        raise NoSpaceError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(rows, "end", full)
        asyncio.run(box.inbox.settle())
    assert [r.counter for r in box.ledger.read(rows.begun)] == [1], "the next start tries again"
    asyncio.run(box.inbox.settle())
    assert box.states() == ["unknown"]


def test_outcomes_are_said_again_until_the_audit_stream_is_acknowledged(box: Box) -> None:
    box.send(*[box.command(n) for n in range(1, 4)])
    said = [message.topic for message in box.inbox.greet()]
    assert said == [f"ea1/box-1/up/cmd/{n}" for n in (1, 2, 3)]
    assert sorted(box.inbox.outcomes()) == ["1", "2", "3"]
    box.acknowledge_all()
    assert [m.topic for m in box.inbox.greet()] == ["ea1/box-1/up/cmd/3"], "the newest, always"
    again = box.inbox.greet()[0].payload
    assert box.inbox.greet()[0].payload == again, "the same bytes each time"


def test_a_result_that_is_too_large_is_left_out(box: Box) -> None:
    async def much(_: Command) -> dict[str, Any]:
        return {"text": "x" * (64 << 10)}

    hands = Hands(much, "restart-engine")
    box.inbox = CommandInbox(box.me, NODE_KEY, box.in_tuf.trust, box.ledger, box.clock, hands)
    box.inbox.say = box._say
    box.send(box.command(1))
    assert box.said[0]["state"] == "done"
    assert "left_out" in box.said[0]["result"]


def test_old_commands_make_place_and_their_counters_stay_used(box: Box) -> None:
    def used(db: Any, n: int) -> None:
        rows.start(db, n, f"hash {n}", "hold", "now")
        rows.end(db, n, State.DONE, b"", n)

    for n in range(1, 230):
        box.ledger.record(partial(used, n=n)).result()
    count = box.ledger.read(lambda db: db.execute("SELECT count(*) FROM commands").fetchone()[0])
    assert (count, box.ledger.read(rows.last)) == (200, 229)
    box.refused(box.command(3), 30)


def test_refusals_are_audited_sparingly(box: Box) -> None:
    for _ in range(5):
        box.refused(box.command(key=STRANGER), 20)
    assert [kind for kind, _ in box.audit()] == ["command-refused"]
