"""Attacks that the second algorithm stops: what comes from the hub, or is carried to it."""

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from appliance.ledger import meta, receipts, streams
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.node import identity
from appliance.node.fleet import FleetInbox
from appliance.trust import publishers, receipt
from appliance.trust.envelope import Addressee, Slot
from appliance.trust.keys import SigningKey
from tests.attacks import defences as d
from tests.attacks.attack import (
    ACCEPTED,
    DAY,
    DIRECTOR,
    HARMED,
    HARMLESS,
    HELD,
    NOW,
    SYNC,
    Attempt,
    Scene,
    attack,
    director,
    good,
)
from tests.attacks.on_keys import other
from tests.helpers.models import wire_deployment
from tests.helpers.organisation import Node
from tests.helpers.signing import ISSUED, Publisher, digest_of, new_key, revoked, target

BATCH = "ba" * 32
"""The hash of a batch that was sent."""

# --- the director's word --------------------------------------------------------------------------


def inbox(node: Node) -> FleetInbox:
    me = identity.load(node.state)
    to = Addressee("acme", me.node, me.key.public, node.ledger.epoch)
    clock = node.importer._parts.clock
    return FleetInbox(to, node.trust, node.ledger, clock, lambda: None)


def saying(data: bytes) -> Attempt:
    def say(node: Node) -> object:
        box = inbox(node)
        asyncio.run(box.desired(data))
        return HELD if box.waits_for else ACCEPTED

    return say


def word(generation: int = 1, **changes: Any) -> dict[str, Any]:
    documents = [wire_deployment("notes", "small")]
    return {"directorEpoch": 1, "gen": generation, "documents": documents, **changes}


@attack("envelope 1", d.ENVELOPE_CAP, 27, row="director", kind="endless data")
def endless_word(s: Scene) -> Attempt:
    """The director's word never ends."""
    s.took()
    return saying(s.sealed(word()) + b" " * (64 << 10))


@attack("envelope 2", d.ENVELOPE_TYPE, 27, row="director", kind="wrong role")
def word_of_another_slot(s: Scene) -> Attempt:
    """What was signed for one purpose is used for another."""
    s.took()
    return saying(s.sealed(word(), Slot.REPORTED))


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="director", kind="wrong key")
def word_by_a_stranger(s: Scene) -> Attempt:
    """Whoever took the broker over instructs the node."""
    s.took()
    return saying(s.sealed(word(), key=new_key()))


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="sync", kind="wrong role")
def word_by_the_sync_key(s: Scene) -> Attempt:
    """The key that acknowledges instructs the node."""
    s.took()
    return saying(s.sealed(word(), key=SYNC))


@attack("envelope 4", d.ONE_MEANING, 27, row="director", kind="equivocation")
def word_with_two_meanings(s: Scene) -> Attempt:
    """One key stands twice, so that two readers see two generations."""
    s.took()
    body = {**word(), "gen": 1}
    plain = s.sealed(body)
    twice = plain[:-1] + b"," + plain[1:]
    return saying(twice)


def addressed(field: str, value: str) -> Callable[[Scene], Attempt]:
    def prepare(s: Scene) -> Attempt:
        s.took()
        return saying(s.sealed(word(), to=replace(s.me, **{field: value})))

    return prepare


@attack("envelope 5", d.ADDRESSEE["org"], 28, row="director", kind="replay")
def word_for_another_organisation(s: Scene) -> Attempt:
    """A word to another organisation's node is replayed here."""
    return addressed("org", "other")(s)


@attack("envelope 5", d.ADDRESSEE["node"], 28, row="director", kind="replay")
def word_for_another_node(s: Scene) -> Attempt:
    """A word to another node is replayed here."""
    return addressed("node", "box-2")(s)


@attack("envelope 5", d.ADDRESSEE["nodeKey"], 28, row="node", kind="replay")
def word_for_another_key_of_this_name(s: Scene) -> Attempt:
    """A word to the machine that had this name before is replayed here."""
    return addressed("node_key", new_key().public)(s)


@attack("envelope 5", d.ADDRESSEE["dbEpoch"], 28, row="node", kind="replay")
def word_for_an_older_ledger(s: Scene) -> Attempt:
    """A word from before the node was restored is replayed."""
    return addressed("db_epoch", "older")(s)


@attack("envelope 6", d.DIRECTOR_EPOCH, 29, row="director", kind="revocation")
def word_of_a_director_that_was_replaced(s: Scene) -> Attempt:
    """A director goes on although its epoch was ended offline."""
    draft = good()
    draft.director = director(2)
    s.took(draft)
    return saying(s.sealed(word()))


@attack("envelope 7", d.ENVELOPE_EXPIRY, 21, row="director", kind="freeze")
def word_that_expired(s: Scene) -> Attempt:
    """A word is kept back, and delivered when it does harm."""
    s.took()
    return saying(s.sealed(word(), issued=NOW - 2 * DAY))


@attack("envelope 8", d.ORDER, 30, row="director", kind="replay")
def word_of_an_older_generation(s: Scene) -> Attempt:
    """An older generation is replayed."""
    s.took()
    saying(s.sealed(word(7)))(s.node)
    return saying(s.sealed(word(6)))


@attack("envelope 8", d.ORDER, 31, row="director", kind="equivocation")
def two_words_of_one_generation(s: Scene) -> Attempt:
    """Two different words call themselves generation 7."""
    s.took()
    saying(s.sealed(word(7)))(s.node)
    return saying(s.sealed(word(7, documents=[])))


@attack("envelope 9", d.BROUGHT, HELD, row="director", kind="wrong role")
def word_that_names_what_nobody_approved(s: Scene) -> Attempt:
    """The director names a model that the offline keys never listed."""
    s.took()
    return saying(s.sealed(word(documents=[wire_deployment("notes", "mine")])))


@attack("envelope 9", d.REVOCATION, 29, row="director", kind="revocation", rests_on=(d.BROUGHT,))
def word_that_names_what_is_revoked(s: Scene) -> Attempt:
    """The director names a model that the offline keys revoked."""
    draft, then = good(), other()
    s.took(draft)
    digest = digest_of(draft.blobs["manifest"])
    then.revoked = revoked(digest)
    s.took(then, versions=(2, 2, 2), also=draft.listed())
    return saying(s.sealed(word(documents=[wire_deployment("notes", f"small@{digest}")])))


# --- the time, and acknowledgements ---------------------------------------------------------------


def asked(s: Scene) -> str:
    """Have the node ask for the time."""
    return s.node.ledger.record(receipts.ask_for_time).result()


def answer(s: Scene, nonce: str, at: datetime.datetime = NOW, **how: Any) -> bytes:
    how = {"key": SYNC, "issued": at, **how}
    return s.sealed({"nonce": nonce, "time": at.isoformat()}, Slot.TIME, **how)


def telling(data: bytes) -> Attempt:
    return lambda node: node.answers.take_time(data)


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="director", kind="wrong role")
def time_by_the_director(s: Scene) -> Attempt:
    """The key that instructs says what time it is."""
    s.took()
    return telling(answer(s, asked(s), key=DIRECTOR))


@attack("envelope 5", d.ADDRESSEE["node"], 28, row="sync", kind="nonce")
def time_for_another_node(s: Scene) -> Attempt:
    """An answer to another node's question is brought here."""
    s.took()
    return telling(answer(s, asked(s), to=replace(s.me, node="box-2")))


@attack("envelope 8", d.NONCE, 30, row="sync", kind="nonce")
def time_that_was_taken_before(s: Scene) -> Attempt:
    """An answer that was taken before is brought again."""
    s.took()
    data = answer(s, asked(s))
    s.node.answers.take_time(data)
    return telling(data)


@attack("envelope 8", d.NONCE, 30, row="sync", kind="nonce")
def time_for_an_older_question(s: Scene) -> Attempt:
    """An answer to an older question is kept back until the node asks again."""
    s.took()
    data = answer(s, asked(s))
    s.node.answers.take_time(answer(s, asked(s), NOW + DAY / 2))
    asked(s)
    return telling(data)


@attack("envelope 8", d.REACH, HARMLESS, row="sync", kind="nonce", without=HARMED)
def time_beyond_400_days(s: Scene) -> Attempt:
    """The hub says that thirty years have gone by."""
    s.took()
    data = answer(s, asked(s), ISSUED + 11_000 * DAY)

    def tell(node: Node) -> object:
        node.answers.take_time(data)
        reached = node.ledger.read(meta.floor)
        return HARMED if reached and reached > ISSUED + 401 * DAY else HARMLESS

    return tell


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="director", kind="wrong role", without=HARMED)
def acknowledgement_by_the_director(s: Scene) -> Attempt:
    """The key that instructs frees what the hub never got."""
    return _acknowledging(s, DIRECTOR, BATCH)


@attack("envelope 8", d.ACKNOWLEDGED, 31, row="sync", kind="equivocation", without=HARMED)
def acknowledgement_of_another_batch(s: Scene) -> Attempt:
    """A batch is acknowledged that is not the one which was sent."""
    return _acknowledging(s, SYNC, "00" * 32)


def _acknowledging(s: Scene, key: SigningKey, batch_hash: str) -> Attempt:
    s.took()
    batch = s.node.ledger.record(partial(streams.seal, stream=Stream.AUDIT, make=_one, most=1))
    sealed = batch.result()
    assert sealed is not None
    entry = {"epoch": s.node.ledger.epoch, "upto": sealed.upto, "hash": batch_hash}
    data = s.sealed({"streams": {Stream.AUDIT: entry}}, Slot.ACK, key)

    def acknowledge(node: Node) -> object:
        asyncio.run(inbox(node).ack(data))
        freed = node.ledger.read(partial(streams.position, stream=Stream.AUDIT)).acked_upto
        return HARMED if freed else HARMLESS

    return acknowledge


def _one(_: Position, records: list[Record]) -> SealedBatch:
    return SealedBatch(Stream.AUDIT, records[0].seq, len(records), BATCH, b"{}")


# --- what is carried to the hub, or between people ------------------------------------------------


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="node", kind="wrong key")
def receipt_by_another_nodes_key(s: Scene) -> Attempt:
    """A node writes a receipt for another one."""
    s.took()
    (row,) = s.node.ledger.read(receipts.rows)
    admitted, thief = new_key().public, new_key()
    said = {**receipt.payload_of(row.envelope), "nodeKey": admitted}
    data, _ = receipt.sign(said, thief)
    return lambda _: receipt.open_receipt(data, {admitted}, "acme", "box-1")


@attack("import 7", d.PASSED_SCOPE, 28, row="publisher", kind="wrong role")
def passed_list_beyond_its_path(_: Scene) -> Attempt:
    """A publisher hands its list to the organisation, with another's model in it."""
    vendor = Publisher.new(listed={"models/rival/small/1.0.0/Q4_0": target(b"{}")})
    data = vendor.file(ISSUED)
    return lambda _: publishers.read_list(data, "1.publisher-vendor.json", "vendor")
