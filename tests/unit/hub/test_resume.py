"""A hub that was put back to an earlier day goes on above what its nodes remember."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.hub import backup, heads, receipts, resume, store
from appliance.hub.view import State
from appliance.ledger.head import Head
from appliance.ledger.streams import Stream
from appliance.sync.mqtt import Message
from appliance.trust import dsse
from tests.helpers.hubs import Hub, TalkingNode
from tests.helpers.models import deployment

AT = "2026-12-01T00:00:00.000Z"


class Story:
    """One node, and a hub that somebody puts back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "hub").mkdir()
        self.hub = Hub(folder / "hub")
        self.node = TalkingNode()
        self.hub.admit(self.node)
        self.reports = 0

    def take(self, *messages: Message) -> list[dict[str, Any]]:
        return asyncio.run(self.hub.service.replay(self.hub.row(), messages))

    def report(
        self,
        generation: int | None,
        digest: str | None = None,
        head: dict[str, Any] | None = None,
        **streams: Any,
    ) -> None:
        self.reports += 1
        applied = {"generation": generation, **({"hash": digest} if digest else {})}
        now = self.hub.clock.utc()
        more = {} if head is None else {"audit": head}
        data = self.node.report(self.reports, now, applied=applied, streams=streams, **more)
        (result,) = self.take(Message(self.node.topics.reported, data))
        assert result == {"result": "taken"}

    def batch(self, *bodies: Any) -> Message:
        made = self.node.batch(bodies)
        return Message(self.node.topics.stream("usage"), made.envelope)

    def ask(self, name: str = "notes") -> int:
        return self.hub.db.submit(
            lambda db: store.put_documents(db, "box-1", [deployment(name)])
        ).result()

    def word(self) -> dict[str, Any] | None:
        """Return what the hub would say to the node now."""
        for message in asyncio.run(self.hub.service.answers("box-1")):
            if message.topic == self.node.topics.desired:
                return dsse.unverified(message.payload, what="the word")
        return None

    def hash_of_word(self) -> str:
        found = asyncio.run(self.hub.service.answers("box-1"))
        (word,) = [m.payload for m in found if m.topic == self.node.topics.desired]
        return dsse.payload_hash(word)

    def save(self) -> None:
        state = self.folder / "hub"
        (state / "identity").mkdir(exist_ok=True)
        me = self.hub.identity
        (state / "identity" / "hub.json").write_bytes(wire.dumps({"org": me.org, "epoch": 1}))
        (state / "identity" / "token").write_text(me.token)
        (state / "identity" / "token").chmod(0o600)
        for name in ("director", "sync"):
            path = state / "identity" / f"{name}.pem"
            path.unlink(missing_ok=True)
            type(me.director).create(path)
        backup.make(state, self.folder / "saved", AT)

    def put_back(self) -> backup.Restored:
        self.hub.db.close()
        found = backup.restore(self.folder / "saved", self.folder / "hub", replace=True)
        self.hub = Hub(self.folder / "hub", self.hub.identity)
        return found

    def held(self) -> bool:
        return self.hub.db.read(lambda db: resume.is_held(db, "box-1"))


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path)
    yield made
    made.hub.db.close()


def test_nothing_is_asked_before_a_node_has_said_what_it_follows(story: Story) -> None:
    story.report(None)
    story.ask()
    assert story.word()
    digest = story.hash_of_word()
    story.save()
    assert story.put_back().nodes == 1
    assert story.word() is None
    story.report(1, digest)
    word = story.word()
    assert word is not None
    assert word["gen"] == 1
    assert story.hash_of_word() == digest


def test_it_goes_on_above_what_the_node_follows_when_somebody_asks_again(story: Story) -> None:
    story.report(None)
    story.ask("one")
    story.word()
    story.save()
    story.ask("two")
    story.ask("three")
    digest = story.hash_of_word()
    story.put_back()
    story.report(3, digest)
    assert story.word() is None  # its documents are older than what the node follows
    assert story.held()
    story.report(3, digest)
    assert story.word() is None
    assert story.ask("four") == 4
    word = story.word()
    assert word is not None
    assert word["gen"] == 4
    assert not story.held()


def test_what_is_asked_again_is_named_as_a_return(story: Story) -> None:
    story.report(None)
    story.ask("one")
    story.word()
    story.save()
    story.ask("two")
    digest = story.hash_of_word()
    story.put_back()
    story.report(2, digest)
    assert story.ask("one") == 3
    word = story.word()
    assert word is not None
    assert (word["gen"], word["rollback"]["to"]) == (3, 1)


def test_one_number_never_stands_for_two_contents(story: Story) -> None:
    story.report(None)
    story.ask("one")
    story.word()
    story.report(1, "ab" * 32)  # the same number, as another hub had said it
    word = story.word()
    assert word is not None
    assert word["gen"] == 2


def test_a_node_that_is_behind_is_asked_as_ever(story: Story) -> None:
    story.report(None)
    story.ask("one")
    story.ask("two")
    story.word()
    story.save()
    story.put_back()
    story.report(1, "ab" * 32)
    word = story.word()
    assert word is not None
    assert word["gen"] == 2


def test_what_was_acknowledged_and_lost_is_a_gap_and_the_rest_goes_on(story: Story) -> None:
    story.report(None)
    story.take(story.batch(1, 2))
    story.save()
    lost, later = story.batch(3, 4, 5), story.batch(6)
    story.take(lost)
    (position,) = story.hub.db.read(lambda db: store.positions(db, "box-1"))
    story.put_back()
    story.take(later)
    assert story.hub.records() == [1, 2]  # it comes too early
    story.report(None, usage={"acknowledged": 5, "hash": position.hash, "written": 6})
    assert story.take(later) == [{"result": "taken"}]
    assert story.hub.records() == [1, 2, {"why": resume.WHY, "records": 3}, 6]
    assert story.take(lost) == [{"result": "taken"}]  # a stick still had it
    assert story.hub.records() == [1, 2, 3, 4, 5, 6]
    assert story.take(lost) == [{"result": "known"}]
    assert story.hub.records() == [1, 2, 3, 4, 5, 6]
    assert story.hub.refusals() == []


def test_a_part_of_a_gap_is_filled_and_the_rest_stays_one(story: Story) -> None:
    story.report(None)
    story.save()
    parts = [story.batch(1), story.batch(2, 3), story.batch(4, 5)]
    story.take(*parts)
    (position,) = story.hub.db.read(lambda db: store.positions(db, "box-1"))
    story.put_back()
    story.report(None, usage={"acknowledged": 5, "hash": position.hash, "written": 5})
    story.take(parts[1])
    gap = {"why": resume.WHY, "records": 1}
    assert story.hub.records() == [gap, 2, 3, {**gap, "records": 2}]
    story.take(parts[2], parts[0])
    assert story.hub.records() == [1, 2, 3, 4, 5]
    rows = story.hub.db.read(lambda db: store.batches(db, "box-1"))
    assert [(r["first"], r["count"]) for r in rows] == [(1, 1), (2, 2), (4, 2)]


def test_an_audit_log_with_a_gap_vouches_for_nothing_until_it_is_filled(story: Story) -> None:
    def audit(count: int) -> tuple[Message, str]:
        made = story.node.batch(range(count), stream=Stream.AUDIT)
        return Message(story.node.topics.stream("audit"), made.envelope), made.hash

    def report(acknowledged: int, digest: str, head: dict[str, Any]) -> None:
        said = {"acknowledged": acknowledged, "hash": digest, "written": 9}
        story.report(None, audit=said, head=head)

    def missing() -> dict[str, str]:
        return story.hub.db.read(heads.missing)

    def suspects() -> dict[str, str]:
        return story.hub.db.read(receipts.suspects)

    story.report(None)
    first, _ = audit(2)
    story.take(first)
    story.save()
    second, digest = audit(3)
    third, _ = audit(1)
    story.take(second, third)
    head = story.hub.db.read(
        lambda db: dict(
            db.execute("SELECT seq, hash FROM heads ORDER BY seq DESC LIMIT 1").fetchone()
        )
    )
    assert head["seq"] == 6
    story.put_back()
    report(5, digest, head)
    assert missing()
    story.take(third)
    assert missing() == {}
    story.take(second)
    story.take(*[audit(1)[0]])
    assert story.hub.db.read(lambda db: heads._at(db, ("box-1", "e1"), 6)) == Head(**head)
    assert suspects() == {}
    report(5, digest, {**head, "hash": "ab" * 32})
    assert "two audit logs of 6 records" in suspects()["box-1"]


def test_no_audit_record_is_said_to_be_missing_that_came_before_the_restore(story: Story) -> None:
    story.report(None)
    story.save()
    made = story.node.batch(range(3), stream=Stream.AUDIT)
    story.take(Message(story.node.topics.stream("audit"), made.envelope))
    (seq, digest) = story.hub.db.read(
        lambda db: db.execute("SELECT seq, hash FROM heads").fetchone()
    )
    story.put_back()
    said = {"acknowledged": 3, "hash": made.hash, "written": 3}
    for _ in range(2):
        story.report(None, audit=said, head={"seq": seq, "hash": digest})
        assert story.hub.db.read(heads.missing) == {}
    assert story.hub.db.read(receipts.suspects) == {}
    story.report(None, audit=said, head={"seq": seq, "hash": "ab" * 32})
    assert "two audit logs of 3 records" in story.hub.db.read(receipts.suspects)["box-1"]


def test_a_hub_that_lost_nothing_is_not_moved_by_what_a_node_says(story: Story) -> None:
    story.report(None)
    story.take(story.batch(1, 2))
    before = story.hub.db.read(lambda db: store.positions(db, "box-1"))
    story.report(None, usage={"acknowledged": 2, "hash": "ab" * 32, "written": 9})
    assert story.hub.db.read(lambda db: store.positions(db, "box-1")) == before


@pytest.mark.parametrize(
    "said",
    [{"acknowledged": -1}, {"acknowledged": True}, {"acknowledged": "9"}, {"hash": None}, 7],
)
def test_nonsense_moves_nothing(story: Story, said: Any) -> None:
    full = {"acknowledged": 9, "hash": "ab" * 32, **said} if isinstance(said, dict) else said
    story.report(None, usage=full)
    assert story.hub.db.read(lambda db: store.positions(db, "box-1")) == []


def test_the_list_of_nodes_says_that_the_word_is_held(story: Story) -> None:
    from appliance.hub.view import held, view  # noqa: PLC0415 - one use

    story.report(None)
    found = view(story.hub.row(), 3, story.hub.clock.utc(), 30.0)
    assert "put back to an earlier day" in held(found, is_held=True).why
    assert held(found, is_held=False) == found
    assert found.state is State.READY


def test_a_backup_brings_keys_and_token_back(story: Story, tmp_path: Path) -> None:
    story.save()
    found = backup.restore(tmp_path / "saved", tmp_path / "elsewhere")
    assert found.org == "acme"
    for name in ("director.pem", "sync.pem", "token"):
        path = tmp_path / "elsewhere" / "identity" / name
        assert path.read_bytes() == (tmp_path / "hub" / "identity" / name).read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "elsewhere" / "identity").stat().st_mode & 0o077 == 0
