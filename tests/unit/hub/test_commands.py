"""Commands at the hub: a counter that never goes back, and how each one ended."""

import asyncio
import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.core.commands import State
from appliance.errors import NotFoundError, RefusedError, UsageError
from appliance.hub import store
from appliance.hub.commands import CommandDesk, Issued
from appliance.trust.envelope import Accepted, Slot, accept, seal
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.signing import new_key

RESTART = ("restart-engine", {"deployment": "notes"})
DAY = datetime.timedelta(days=1)


class Desk:
    """A hub's desk, and one node that it knows."""

    def __init__(self, folder: Path) -> None:
        self.hub = Hub(folder)
        self.node = TalkingNode()
        self.hub.admit(self.node)
        self.desk = CommandDesk(self.hub.identity, self.hub.db, self.hub.clock)

    def report(self, number: int = 1, **commands: Any) -> None:
        payload = {"dbEpoch": self.node.me.db_epoch, "applied": {}, "commands": commands}
        effect = partial(store.set_reported, name="box-1", payload=payload, number=number, at="now")
        self.hub.db.submit(effect).result()

    def issue(self, verb: str = RESTART[0], args: Any = None, lifetime_s: float = 600) -> Issued:
        given = RESTART[1] if args is None else args
        return asyncio.run(self.desk.issue("box-1", verb, given, lifetime_s=lifetime_s))

    def waiting(self) -> list[Accepted]:
        director = {self.hub.identity.director.public}
        found = self.desk.messages(self.hub.row())
        opened = [accept(m.payload, Slot.COMMAND, director, self.node.me.fields()) for m in found]
        topics = [self.node.topics.command(str(o.payload["counter"])) for o in opened]
        assert [m.topic for m in found] == topics
        assert not any(m.retained for m in found), "a command is never retained"
        assert all(m.expires_s and 1 <= m.expires_s <= 601 for m in found), "and expires"
        return opened

    def outcome(self, counter: int, state: str = "done", **changes: Any) -> bytes:
        body = {"id": str(counter), "counter": counter, "verb": RESTART[0], "state": state,
                "why": "", "result": {"ran": True}, **changes}  # fmt: skip
        key = changes.pop("key", self.node.key)
        now = self.hub.clock.utc()
        return seal(Slot.OUTCOME, self.node.me, body, key, issued=now, lifetime=DAY)

    def take(self, data: bytes, name: str | None = "1") -> None:
        asyncio.run(self.desk.take(self.hub.row(), name, data))

    def states(self) -> list[str]:
        return [c.state for c in self.desk.listed("box-1")]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    made.report()
    yield made
    made.hub.db.close()


def test_a_command_is_signed_and_waits_for_its_outcome(desk: Desk) -> None:
    found = desk.issue()
    assert (found.id, found.state) == ("1", "waiting")
    (opened,) = desk.waiting()
    assert opened.payload["directorEpoch"] == 1
    assert (opened.payload["verb"], opened.payload["args"]) == RESTART
    desk.take(desk.outcome(1))
    assert desk.waiting() == []
    (ended,) = desk.desk.listed("box-1")
    assert (ended.state, ended.result) == ("done", {"ran": True})


def test_the_same_bytes_are_published_until_they_expire(desk: Desk) -> None:
    desk.issue()
    first = desk.waiting()[0].hash
    assert desk.waiting()[0].hash == first
    desk.hub.clock.move(600)
    assert desk.waiting() == []
    assert desk.states() == ["expired"]
    desk.take(desk.outcome(1, "unknown"))
    assert desk.states() == ["unknown"], "what is heard late is heard"


def test_counters_grow_above_what_the_node_has_seen(desk: Desk) -> None:
    assert [desk.issue().id for _ in range(2)] == ["1", "2"]
    desk.report(2, counter=40)
    assert desk.issue().id == "41"
    desk.report(3, counter=7)
    assert desk.issue().id == "42"


def test_the_nodes_nonce_goes_into_the_command(desk: Desk) -> None:
    desk.report(2, nonce="ab" * 32)
    desk.issue()
    assert desk.waiting()[0].payload["nonce"] == "ab" * 32


def test_what_makes_no_sense_is_not_signed(desk: Desk) -> None:
    for verb, args in (("reboot", {}), ("hold", {}), (RESTART[0], {"deployment": "/"})):
        with pytest.raises(UsageError):
            desk.issue(verb, args)
    for lifetime_s in (0, 31 * 86400):
        with pytest.raises(UsageError, match="expires"):
            desk.issue(lifetime_s=lifetime_s)
    with pytest.raises(NotFoundError):
        asyncio.run(desk.desk.issue("nobody", *RESTART, lifetime_s=60))
    assert desk.states() == []


def test_a_node_that_never_reported_cannot_be_addressed(tmp_path: Path) -> None:
    made = Desk(tmp_path)
    with pytest.raises(UsageError, match="has not reported"):
        made.issue()
    made.hub.db.close()


def test_a_ledger_that_was_replaced_hears_nothing_of_the_old_one(desk: Desk) -> None:
    desk.issue()
    desk.node.begin_anew("e2")
    desk.report(1)
    assert desk.waiting() == []


@pytest.mark.parametrize(
    ("changes", "name", "code"),
    [
        ({"key": new_key()}, "1", 20),
        ({}, "2", 28),
        ({"state": "perhaps"}, "1", 27),
        ({"state": "waiting"}, "1", 27),
        ({"why": None}, "1", 27),
        ({"result": "fine"}, "1", 27),
        ({"counter": -1}, "1", 27),
    ],
)
def test_what_is_not_the_nodes_own_outcome_is_refused(
    desk: Desk, changes: dict[str, Any], name: str, code: int
) -> None:
    desk.issue()
    key = changes.get("key", desk.node.key)
    body = {"counter": 1, "state": "done", "why": "", "result": {},
            **{k: v for k, v in changes.items() if k != "key"}}  # fmt: skip
    now = desk.hub.clock.utc()
    data = seal(Slot.OUTCOME, desk.node.me, body, key, issued=now, lifetime=DAY)
    with pytest.raises(RefusedError) as caught:
        desk.take(data, name)
    assert caught.value.exit_code == code
    assert desk.states() == ["waiting"]


def test_the_first_end_counts_but_a_refusal_may_be_followed(desk: Desk) -> None:
    desk.issue()
    desk.take(desk.outcome(1, "refused"))
    desk.take(desk.outcome(1, "done"))
    desk.take(desk.outcome(1, "refused"))
    desk.take(desk.outcome(1, "failed"))
    assert desk.states() == ["done"]
    desk.take(desk.outcome(9), "9")
    assert desk.states() == ["done"], "what this hub never commanded has no row"


def test_a_refusal_is_an_end_too(desk: Desk) -> None:
    desk.issue()
    desk.take(desk.outcome(1, State.REFUSED, why="scope: not permitted here"))
    (found,) = desk.desk.listed("box-1")
    assert (found.state, found.why) == ("refused", "scope: not permitted here")
    assert desk.waiting() == []


def test_what_got_lost_on_the_way_is_known_from_the_audit_stream(desk: Desk) -> None:
    for _ in range(3):
        desk.issue()
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("command-started", {"id": "1", "verb": "hold"}),
        ("command-started", {"id": "2", "verb": "hold"}),
        ("command-ended", {"id": "1", "verb": "hold", "state": "failed", "why": "no room"}),
        ("command-refused", {"code": "scope", "why": "id 3"}),
    ]

    def audited(db: Any) -> None:
        for seq, (kind, body) in enumerate(bodies, start=1):
            record = wire.dumps({"at": "now", "kind": kind, "body": body}).decode()
            db.execute(
                "INSERT INTO records (node, epoch, stream, seq, record) VALUES (?, ?, ?, ?, ?)",
                ("box-1", "e1", "audit", seq, record),
            )

    desk.hub.db.submit(audited).result()
    assert desk.states() == ["waiting"] * 3
    desk.hub.clock.move(600)
    assert desk.states() == ["expired", "started", "failed"]
    failed = desk.desk.listed("box-1")[-1]
    assert failed.why == "no room; what it returned has not come"
