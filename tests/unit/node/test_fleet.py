"""Accepting what the hub sends: each step of TRUST's second algorithm is one defence."""

import asyncio
import base64
import datetime
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.cache import catalog
from appliance.core import wire
from appliance.core.model import Variant
from appliance.errors import EarlierLedgerError, RefusedError
from appliance.ledger import meta, streams
from appliance.ledger.db import Ledger
from appliance.ledger.streams import Fact, Position, Record, SealedBatch, Stream
from appliance.node import desired
from appliance.node.fleet import FleetInbox
from appliance.trust import dsse
from appliance.trust.documents import DIRECTOR_PATH, REVOKED_PATH
from appliance.trust.envelope import Addressee, Slot, seal
from tests.helpers.models import variant, wire_deployment, wire_site
from tests.helpers.signing import InForce, new_key, revoked
from tests.helpers.waiting import StillClock

DIRECTOR, SYNC, NODE_KEY, STRANGER = new_key(), new_key(), new_key(), new_key()
DAY = datetime.timedelta(days=1)


class Box:
    """A node's inbox with all that it looks at, and the hub's hand that writes to it."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "node.db")
        self.me = Addressee("acme", "box-1", NODE_KEY.public, self.ledger.epoch)
        self.in_tuf = InForce(folder / "tuf")
        self.clock = StillClock()
        self.changes = 0
        self.name_director(epoch=2)
        self.bring(variant("small"))
        self.inbox = FleetInbox(self.me, self.in_tuf.trust, self.ledger, self.clock, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def name_director(self, epoch: int) -> None:
        keys = {"keys": [DIRECTOR.public], "sync": [SYNC.public]}
        document = {"org": "acme", "epoch": epoch, **keys, "sites": ["*"], "verbs": []}
        self.in_tuf.documents[DIRECTOR_PATH] = wire.dumps(document)
        self.in_tuf.put()

    def forget_director(self) -> None:
        del self.in_tuf.documents[DIRECTOR_PATH]
        self.in_tuf.put()

    def bring(self, found: Variant) -> None:
        """Have it in the catalogue, and on the signed list."""
        self.ledger.record(lambda db: catalog.add(db, found, "now")).result()
        self.in_tuf.list(found)

    def unlist(self, found: Variant) -> None:
        del self.in_tuf.listed[found.path]
        self.in_tuf.put()

    def revoke(self, *digests: str) -> None:
        self.in_tuf.documents[REVOKED_PATH] = revoked(*digests)
        self.in_tuf.put()

    def word(self, generation: int = 1, **changes: Any) -> bytes:
        """Return the hub's word; ``changes`` are to the payload, or how it is sealed."""
        how: dict[str, Any] = {
            "to": self.me,
            "key": DIRECTOR,
            "slot": Slot.DESIRED,
            "issued": self.clock.utc(),
        }
        how.update({k: changes.pop(k) for k in list(changes) if k in how})
        body = {
            "directorEpoch": 2, "gen": generation, "documents": [wire_deployment()], **changes,
        }  # fmt: skip
        return seal(how["slot"], how["to"], body, how["key"], issued=how["issued"], lifetime=DAY)

    def say(self, data: bytes) -> None:
        asyncio.run(self.inbox.desired(data))

    def refused(self, data: bytes, code: int) -> RefusedError:
        """Say what must be refused with this exit status, and change nothing."""
        before = self.generation()
        with pytest.raises(RefusedError) as caught:
            self.say(data)
        assert caught.value.exit_code == code, caught.value
        assert self.generation() == before
        return caught.value

    def generation(self) -> int:
        return self.ledger.read(desired.fleet).generation

    def in_force(self) -> list[str]:
        found = self.ledger.read(desired.in_force)
        return [d.document.name for d in found.deployments]

    def audit(self) -> list[tuple[str, Any]]:
        found = self.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 100)))
        return [(r.record["kind"], r.record["body"]) for r in found]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.ledger.close()


def test_a_word_is_accepted_put_in_force_and_audited(box: Box) -> None:
    box.say(box.word(3, documents=[wire_deployment("a"), wire_site()]))
    assert box.generation() == 3
    assert box.in_force() == ["a"]
    assert box.changes == 1
    ((kind, body),) = box.audit()
    assert kind == "fleet-accepted"
    assert (body["generation"], body["documents"], len(body["hash"])) == (3, 2, 64)


def test_a_newer_word_replaces_all_of_it(box: Box) -> None:
    box.say(box.word(1, documents=[wire_deployment("a")]))
    box.say(box.word(7, documents=[wire_deployment("b")]))
    assert (box.generation(), box.in_force()) == (7, ["b"])
    box.say(box.word(8, documents=[]))
    assert (box.generation(), box.in_force()) == (8, [])


def test_the_same_bytes_again_are_no_news(box: Box) -> None:
    data = box.word(1)
    box.say(data)
    box.say(data)
    assert (box.changes, len(box.audit())) == (1, 1)


def unsigned(data: bytes) -> bytes:
    return wire.dumps({**json.loads(data), "signatures": []})


def tampered(data: bytes) -> bytes:
    envelope = json.loads(data)
    payload = base64.b64decode(envelope["payload"]).replace(b'"gen":1', b'"gen":9')
    return wire.dumps({**envelope, "payload": base64.b64encode(payload).decode()})


def test_form_type_and_signature_come_first(box: Box) -> None:
    good = box.word(1)
    box.refused(b"x" * (dsse.MAX_ENVELOPE_BYTES + 1), 27)
    box.refused(b"not JSON", 27)
    box.refused(unsigned(good), 27)
    box.refused(box.word(1, slot=Slot.ACK), 27)
    box.refused(tampered(good), 20)
    for key in (STRANGER, SYNC, NODE_KEY):
        box.refused(box.word(1, key=key), 20)
    box.refused(dsse.sign(Slot.DESIRED, b'{"org":"acme","org":"acme"}', DIRECTOR), 27)


@pytest.mark.parametrize(
    "other",
    [{"org": "other"}, {"node": "box-2"}, {"node_key": STRANGER.public}, {"db_epoch": "0" * 16}],
)
def test_a_word_for_another_is_refused(box: Box, other: dict[str, str]) -> None:
    box.refused(box.word(1, to=replace(box.me, **other)), 28)
    assert box.audit()[0][1]["code"] == "scope"


def test_a_word_from_a_director_that_was_replaced_is_refused(box: Box) -> None:
    box.refused(box.word(1, directorEpoch=1), 29)


def test_an_expired_word_is_refused(box: Box) -> None:
    box.refused(box.word(1, issued=box.clock.utc() - DAY), 21)
    box.say(box.word(1, issued=box.clock.utc() - DAY + datetime.timedelta(seconds=1)))
    box.refused(_undated(box), 27)


def _undated(box: Box) -> bytes:
    payload = {**box.me.fields(), "directorEpoch": 2, "gen": 2, "documents": []}
    return dsse.sign(Slot.DESIRED, wire.dumps(payload), DIRECTOR)


def test_a_clock_that_is_wrong_by_years_does_not_make_a_word_expire(box: Box) -> None:
    data = box.word(1)
    for year in (1970, 2090):
        box.clock.time = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
        box.say(data)
    assert box.generation() == 1


def test_the_floor_makes_a_word_expire_whatever_the_clock_says(box: Box) -> None:
    data = box.word(1)
    floor = box.clock.utc() + 2 * DAY
    box.ledger.record(lambda db: meta.add_floor_row(db, "aa" * 32, floor, online=False)).result()
    box.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    box.refused(data, 21)


def test_an_older_generation_is_a_replay(box: Box) -> None:
    old = box.word(1)
    box.say(old)
    box.say(box.word(2))
    box.refused(old, 30)


def test_one_number_for_two_contents_is_equivocation(box: Box) -> None:
    box.say(box.word(1, documents=[wire_deployment("a")]))
    box.refused(box.word(1, documents=[wire_deployment("b")]), 31)
    assert box.in_force() == ["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"gen": "1"},
        {"gen": -1},
        {"gen": True},
        {"directorEpoch": None},
        {"documents": {}},
        {"documents": ["x"]},
        {"documents": [{**wire_deployment(), "spec": {"model": "../etc"}}]},
        {"documents": [wire_deployment(), wire_deployment()]},
        {"documents": [{**wire_deployment(), "kind": "Cake"}]},
    ],
)
def test_what_is_signed_and_makes_no_sense_is_malformed(box: Box, changes: dict[str, Any]) -> None:
    generation = changes.pop("gen", 1)
    box.refused(box.word(generation, **changes), 27)


def test_a_word_under_a_newer_director_waits_for_its_name(box: Box) -> None:
    box.say(box.word(1, directorEpoch=3))
    assert (box.generation(), box.changes) == (0, 1)
    assert "names its director" in box.inbox.waits_for
    box.name_director(epoch=3)
    asyncio.run(box.inbox.look_again())
    assert (box.generation(), box.inbox.waits_for) == (1, "")


def test_a_word_that_names_an_unknown_model_waits_for_a_bundle(box: Box) -> None:
    box.say(box.word(1))
    box.say(box.word(2, documents=[wire_deployment("a", "large"), wire_deployment("b", "huge")]))
    assert (box.generation(), box.in_force()) == (1, ["notes"]), "what runs goes on"
    assert box.inbox.waits_for == "generation 2 waits for a bundle with large, huge"
    box.bring(variant("large"))
    asyncio.run(box.inbox.look_again())
    assert box.inbox.waits_for == "generation 2 waits for a bundle with huge"
    box.bring(variant("huge"))
    asyncio.run(box.inbox.look_again())
    assert (box.generation(), box.inbox.waits_for) == (2, "")
    assert box.in_force() == ["a", "b"]
    asyncio.run(box.inbox.look_again())
    assert [kind for kind, _ in box.audit()] == ["fleet-accepted"] * 2


def test_a_word_that_names_an_unlisted_model_waits_for_a_newer_list(box: Box) -> None:
    box.unlist(variant("small"))
    box.say(box.word(1))
    assert (box.generation(), box.inbox.waits_for) == (
        0,
        "generation 1 waits for a bundle with small",
    )
    box.bring(variant("small"))
    asyncio.run(box.inbox.look_again())
    assert (box.generation(), box.inbox.waits_for) == (1, "")


@pytest.mark.parametrize("digest", [variant("small").manifest, variant("small").weights])
def test_a_word_that_names_a_revoked_model_is_refused(box: Box, digest: str) -> None:
    box.revoke(digest)
    assert "is revoked: it leaks" in str(box.refused(box.word(1), 29))
    assert box.inbox.waits_for == ""


def test_a_word_that_pins_a_revoked_digest_is_refused_although_it_is_not_here(box: Box) -> None:
    unknown = variant("large").manifest
    box.revoke(unknown)
    box.refused(box.word(1, documents=[wire_deployment("a", f"large@{unknown}")]), 29)


def test_a_word_that_names_a_model_with_another_listed_version_is_accepted(box: Box) -> None:
    newer = variant("small", "2.0.0")
    box.bring(newer)
    box.revoke(newer.manifest)
    box.say(box.word(1))
    assert box.generation() == 1
    box.refused(box.word(2, documents=[wire_deployment("a", "small@2.0.0")]), 29)


def test_a_newer_word_takes_the_place_of_one_that_waits(box: Box) -> None:
    box.say(box.word(1, documents=[wire_deployment("a", "large")]))
    box.say(box.word(2))
    assert (box.generation(), box.inbox.waits_for) == (2, "")
    box.bring(variant("large"))
    asyncio.run(box.inbox.look_again())
    assert box.generation() == 2


def test_what_waited_and_is_refused_by_now_is_nobody_elses_failure(box: Box) -> None:
    """Whoever imports a bundle looks again; the import must not seem to have failed."""
    box.say(box.word(1, documents=[wire_deployment("a", "large")]))
    box.clock.move(2 * DAY.total_seconds())
    box.bring(variant("large"))
    asyncio.run(box.inbox.look_again())
    assert (box.generation(), box.inbox.waits_for) == (0, "")
    assert box.audit()[-1][1]["code"] == "expired"
    asyncio.run(box.inbox.look_again())
    assert len(box.audit()) == 1


def test_before_any_director_is_named_everything_waits_unread(box: Box) -> None:
    box.forget_director()
    box.say(b"whatever a broker says")
    assert "names the director" in box.inbox.waits_for
    asyncio.run(box.inbox.ack(b"whatever a broker says"))
    box.name_director(epoch=2)
    asyncio.run(box.inbox.look_again())
    assert box.inbox.waits_for == ""
    box.say(box.word(1))
    assert box.generation() == 1


def test_a_refusal_is_audited_once_for_each_content(box: Box) -> None:
    stranger, other = box.word(1, key=STRANGER), box.word(1, to=replace(box.me, node="box-2"))
    for data in (stranger, stranger, other, other):
        box.refused(data, 20 if data is stranger else 28)
    assert [body["code"] for _, body in box.audit()] == ["signature", "scope"]


def test_whoever_reaches_the_broker_cannot_fill_the_disk(box: Box) -> None:
    for number in range(100):
        slot = f"{number} {'x' * 30_000}"
        data = dsse.sign(slot, b"{}", STRANGER)
        box.refused(data, 27)
    assert len(box.audit()) == 20
    assert max(len(body["why"]) for _, body in box.audit()) <= 300
    box.clock.move(3601)
    box.refused(box.word(1, key=STRANGER), 20)
    assert len(box.audit()) == 21


def test_what_was_refused_is_shown_until_something_is_accepted(box: Box) -> None:
    box.refused(box.word(1, directorEpoch=1), 29)
    assert "director epoch 1" in box.inbox.refused
    box.say(box.word(1))
    assert box.inbox.refused == ""


def test_what_is_kept_for_a_ledger_of_before_a_restore_is_old_and_no_attack(box: Box) -> None:
    box.ledger.record(lambda db: meta.add_earlier_epochs(db, ["before"])).result()
    before = replace(box.me, db_epoch="before")
    for data in (box.word(1, to=before), ack(box, told(box), to=before)):
        with pytest.raises(EarlierLedgerError):
            asyncio.run(box.inbox.desired(data) if b"desired" in data else box.inbox.ack(data))
    assert (box.inbox.refused, box.audit()) == ("", [])
    box.refused(box.word(1, to=replace(before, node="box-2")), 28)
    box.refused(box.word(1, to=before, key=STRANGER), 20)
    box.refused(box.word(1, to=replace(before, db_epoch="nobody's")), 28)
    assert [body["code"] for _, body in box.audit()] == ["scope", "signature", "scope"]


class Outbox:
    """Two sealed batches of one stream."""

    def __init__(self, box: Box) -> None:
        self._box = box
        facts = [Fact(Stream.USAGE, "t", "", {}) for _ in range(2)]
        box.ledger.note(*facts).result()
        for _ in facts:
            box.ledger.record(lambda db: streams.seal(db, Stream.USAGE, self._one, most=1)).result()

    @staticmethod
    def _one(_: Position, found: list[Record]) -> SealedBatch:
        return SealedBatch(Stream.USAGE, found[0].seq, 1, f"hash-{found[0].seq}", b"")

    def left(self) -> list[int]:
        found = self._box.ledger.read(lambda db: streams.unacknowledged(db, Stream.USAGE, 9))
        return [b.first for b in found]


def ack(box: Box, streams_told: Any, **how: Any) -> bytes:
    named = {"to": box.me, "key": SYNC, "slot": Slot.ACK, "issued": box.clock.utc(), **how}
    return seal(
        named["slot"], named["to"], {"streams": streams_told}, named["key"],
        issued=named["issued"], lifetime=DAY,
    )  # fmt: skip


def told(box: Box, **changes: Any) -> dict[str, Any]:
    return {"usage": {"epoch": box.ledger.epoch, "upto": 1, "hash": "hash-1", **changes}}


def test_an_acknowledgement_frees_what_it_names(box: Box) -> None:
    outbox = Outbox(box)
    asyncio.run(box.inbox.ack(ack(box, told(box))))
    assert outbox.left() == [2]
    asyncio.run(box.inbox.ack(ack(box, told(box, upto=2, hash="hash-2"))))
    assert outbox.left() == []
    asyncio.run(box.inbox.ack(ack(box, told(box))))


@pytest.mark.parametrize("changes", [{"hash": "other"}, {"upto": 9}, {"upto": 0}])
def test_an_acknowledgement_of_what_was_never_sent_is_equivocation(
    box: Box, changes: dict[str, Any]
) -> None:
    outbox = Outbox(box)
    with pytest.raises(RefusedError) as caught:
        asyncio.run(box.inbox.ack(ack(box, told(box, **changes))))
    assert caught.value.exit_code == 31
    assert outbox.left() == [1, 2]
    assert box.audit()[-1][0] == "ack-refused"


def test_one_strange_stream_does_not_keep_the_others_from_being_freed(box: Box) -> None:
    outbox = Outbox(box)
    audit = {"epoch": box.me.db_epoch, "upto": 5, "hash": "other"}
    with pytest.raises(RefusedError):
        asyncio.run(box.inbox.ack(ack(box, {**told(box), "audit": audit})))
    assert outbox.left() == [2]


@pytest.mark.parametrize("changes", [{"epoch": "other"}, {"upto": 0, "hash": ""}])
def test_an_acknowledgement_of_something_else_frees_nothing(
    box: Box, changes: dict[str, Any]
) -> None:
    outbox = Outbox(box)
    asyncio.run(box.inbox.ack(ack(box, told(box, **changes))))
    asyncio.run(box.inbox.ack(ack(box, {"unknown": 1, "usage": 7})))
    assert outbox.left() == [1, 2]


def test_only_the_sync_key_acknowledges_and_only_for_this_node(box: Box) -> None:
    outbox = Outbox(box)
    refused = [
        (ack(box, told(box), key=DIRECTOR), 20),
        (ack(box, told(box), slot=Slot.DESIRED), 27),
        (ack(box, told(box), to=replace(box.me, node="box-2")), 28),
        (ack(box, told(box), to=replace(box.me, db_epoch="other")), 28),
        (ack(box, told(box), issued=box.clock.utc() - DAY), 21),
        (ack(box, None), 27),
        (ack(box, told(box, upto="1")), 27),
    ]
    for data, code in refused:
        with pytest.raises(RefusedError) as caught:
            asyncio.run(box.inbox.ack(data))
        assert caught.value.exit_code == code
    assert outbox.left() == [1, 2]


def test_acknowledgements_that_are_refused_are_audited_sparingly(box: Box) -> None:
    for _ in range(3):
        with pytest.raises(RefusedError):
            asyncio.run(box.inbox.ack(ack(box, told(box), key=DIRECTOR)))
    found = box.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 99)))
    assert [r.record["kind"] for r in found] == ["ack-refused"]
    assert box.inbox.refused == "", "it says nothing of the hub's word"


def test_a_director_named_anew_counts_from_the_start_whatever_a_thief_used_up(box: Box) -> None:
    box.say(box.word(1, documents=[wire_deployment("healed")]))
    box.say(box.word(2**53 - 1))
    box.name_director(epoch=3)
    box.refused(box.word(2**53 - 1, documents=[]), 29)
    box.say(box.word(6, directorEpoch=3, documents=[wire_deployment("healed")]))
    assert (box.generation(), box.in_force()) == (6, ["healed"])
    box.refused(box.word(5, directorEpoch=3), 30)


def test_an_older_word_that_was_checked_before_a_newer_one_was_committed_changes_nothing(
    box: Box,
) -> None:
    async def both() -> None:
        # The stick's word is looked at while the link's is on its way to the disk.
        await asyncio.gather(box.inbox.desired(box.word(8)), box.inbox.desired(box.word(7)))

    with pytest.raises(RefusedError) as caught:
        asyncio.run(both())
    assert caught.value.code == "replay"
    assert box.generation() == 8


def test_an_older_set_of_documents_comes_back_only_by_a_signed_rollback(box: Box) -> None:
    a, b = [wire_deployment("a")], [wire_deployment("b")]
    box.say(box.word(1, documents=a))
    box.say(box.word(2, documents=b))
    error = box.refused(box.word(3, documents=a), 22)
    assert "brings back what generation 1 said" in error.what
    assert box.in_force() == ["b"]
    box.say(box.word(4, documents=a, rollback={"to": 1, "why": "b was too slow"}))
    assert (box.generation(), box.in_force()) == (4, ["a"])
    kind, body = box.audit()[-1]
    assert (kind, body["rollback"]) == ("fleet-accepted", {"to": 1, "why": "b was too slow"})


def test_a_rollback_must_say_what_that_generation_said(box: Box) -> None:
    box.say(box.word(1, documents=[wire_deployment("a")]))
    box.say(box.word(2, documents=[wire_deployment("b")]))
    word = box.word(3, documents=[wire_deployment("c")], rollback={"to": 1, "why": "back"})
    box.refused(word, 27)
    assert box.in_force() == ["b"]


def test_the_same_documents_sealed_anew_are_no_rollback(box: Box) -> None:
    box.say(box.word(1))
    box.say(box.word(2, documents=[wire_deployment()]))
    assert box.generation() == 2
