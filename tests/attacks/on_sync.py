"""Attacks on the road between node and hub: by who holds the broker, or a key of the hub."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from appliance.core import wire
from appliance.ledger import streams
from appliance.ledger.streams import Position, Record, SealedBatch, Stream
from appliance.sync import batch
from appliance.trust import dsse
from appliance.trust.envelope import Addressee, Slot
from appliance.trust.keys import SigningKey
from tests.attacks import defences as d
from tests.attacks.attack import (
    ACCEPTED,
    DAY,
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
from tests.attacks.on_envelopes import answer, asked, inbox, saying, telling, word
from tests.attacks.on_keys import other
from tests.helpers.models import wire_deployment
from tests.helpers.organisation import Node
from tests.helpers.signing import digest_of, new_key

BATCH = "ba" * 32
"""The hash of a batch that was sent."""

ZSTD: Any = vars(batch)["zstd"]
"""Whichever of the two libraries this Python has."""

ALL_NUMBERS = 2**53 - 1

# --- acknowledgements -----------------------------------------------------------------------------


def acking(data: bytes) -> Attempt:
    """Offer an acknowledgement; what it frees that must be kept is harm."""

    def acknowledge(node: Node) -> object:
        asyncio.run(inbox(node).ack(data))
        freed = node.ledger.read(partial(streams.position, stream=Stream.AUDIT)).acked_upto
        return HARMED if freed else HARMLESS

    return acknowledge


def told(s: Scene, **how: Any) -> bytes:
    """Return an acknowledgement of all that a node has sent: right, but for ``how``."""
    seal = partial(streams.seal, stream=Stream.AUDIT, make=_one, most=1)
    sealed = s.node.ledger.record(seal).result()
    assert sealed is not None
    entry = {"epoch": s.node.ledger.epoch, "upto": sealed.upto, "hash": BATCH}
    return s.sealed({"streams": {Stream.AUDIT: entry}}, **{"slot": Slot.ACK, "key": SYNC, **how})


def _one(_: Position, records: list[Record]) -> SealedBatch:
    return SealedBatch(Stream.AUDIT, records[0].seq, len(records), BATCH, b"{}")


frees = partial(attack, without=HARMED, row="sync")


@frees("envelope 1", d.ENVELOPE_CAP, 27, kind="endless data")
def endless_acknowledgement(s: Scene) -> Attempt:
    """An acknowledgement never ends."""
    s.took()
    return acking(told(s) + b" " * (64 << 10))


@frees("envelope 2", d.ENVELOPE_TYPE, 27, kind="wrong role")
def answer_in_place_of_an_acknowledgement(s: Scene) -> Attempt:
    """What the sync key signed as an answer is used as an acknowledgement."""
    s.took()
    return acking(told(s, slot=Slot.TIME))


@frees("envelope 3", d.ENVELOPE_SIGNED, 20, kind="wrong key")
def acknowledgement_by_a_stranger(s: Scene) -> Attempt:
    """Whoever took the broker over says that the hub has it all."""
    s.took()
    return acking(told(s, key=new_key()))


@frees("envelope 4", d.ONE_MEANING, 27, kind="equivocation")
def acknowledgement_with_two_meanings(s: Scene) -> Attempt:
    """One key stands twice, so that two readers see two acknowledgements."""
    s.took()
    plain = told(s)
    return acking(plain[:-1] + b"," + plain[1:])


def for_another(field: str, value: str) -> Callable[[Scene], Attempt]:
    def prepare(s: Scene) -> Attempt:
        s.took()
        return acking(told(s, to=replace(s.me, **{field: value})))

    return prepare


@frees("envelope 5", d.ADDRESSEE["node"], 28, kind="replay")
def acknowledgement_for_another_node(s: Scene) -> Attempt:
    """A broker gives one node what the hub told another."""
    return for_another("node", "box-2")(s)


@frees("envelope 5", d.ADDRESSEE["org"], 28, kind="replay")
def acknowledgement_for_another_organisation(s: Scene) -> Attempt:
    """What another organisation's hub told its node is replayed here."""
    return for_another("org", "other")(s)


@frees("envelope 5", d.ADDRESSEE["nodeKey"], 28, kind="replay")
def acknowledgement_for_another_key_of_this_name(s: Scene) -> Attempt:
    """What the machine that had this name before was told is replayed here."""
    return for_another("node_key", new_key().public)(s)


@frees("envelope 5", d.ADDRESSEE["dbEpoch"], 28, kind="replay")
def acknowledgement_for_an_older_ledger(s: Scene) -> Attempt:
    """What was acknowledged before the node was restored is replayed."""
    return for_another("db_epoch", "older")(s)


@frees("envelope 7", d.ENVELOPE_EXPIRY, 21, kind="replay")
def acknowledgement_that_expired(s: Scene) -> Attempt:
    """An acknowledgement is kept back, and delivered long afterwards."""
    s.took()
    return acking(told(s, issued=NOW - 2 * DAY))


# --- the time -------------------------------------------------------------------------------------


@attack("envelope 1", d.ENVELOPE_CAP, 27, row="sync", kind="endless data")
def endless_time(s: Scene) -> Attempt:
    """The answer to the node's question never ends."""
    s.took()
    return telling(answer(s, asked(s)) + b" " * (64 << 10))


@attack("envelope 2", d.ENVELOPE_TYPE, 27, row="sync", kind="wrong role")
def acknowledgement_in_place_of_a_time(s: Scene) -> Attempt:
    """What the sync key signed as an acknowledgement is used as a time."""
    s.took()
    body = {"nonce": asked(s), "time": NOW.isoformat()}
    return telling(s.sealed(body, Slot.ACK, SYNC))


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="sync", kind="wrong key")
def time_by_a_stranger(s: Scene) -> Attempt:
    """Whoever took the broker over says what time it is."""
    s.took()
    return telling(answer(s, asked(s), key=new_key()))


@attack("envelope 5", d.ADDRESSEE["dbEpoch"], 28, row="sync", kind="replay")
def time_for_an_older_ledger(s: Scene) -> Attempt:
    """An answer from before the node was restored is replayed, nonce and all."""
    s.took()
    return telling(answer(s, asked(s), to=replace(s.me, db_epoch="older")))


@attack("envelope 7", d.ENVELOPE_EXPIRY, 21, row="sync", kind="freeze")
def time_that_expired(s: Scene) -> Attempt:
    """The answer is kept back, so that the node believes in a time that has passed."""
    s.took()
    return telling(answer(s, asked(s), NOW - 2 * DAY))


# --- the director's key is stolen -----------------------------------------------------------------


@attack("envelope 6", d.DIRECTOR_EPOCH, HELD, row="director", kind="wrong role")
def word_of_a_director_whom_nobody_named(s: Scene) -> Attempt:
    """A director gives itself the next epoch, which offline keys have not signed."""
    s.took()
    return saying(s.sealed(word(directorEpoch=2)))


@attack(
    "envelope 8", d.NEW_DIRECTOR, ACCEPTED, row="director", kind="fast-forward recovery",
    without=30,
)  # fmt: skip
def numbers_that_a_thief_used_up(s: Scene) -> Attempt:
    """A thief of the director's key used up all numbers; a director named anew goes on at 6."""
    honest, draft, then = new_key(), good(), other()
    s.took(draft)
    assert saying(s.sealed(word(ALL_NUMBERS)))(s.node) == ACCEPTED
    then.director = director(2, keys=[honest.public])
    s.took(then, versions=(2, 2, 2), also=draft.listed())
    return saying(s.sealed(word(6, directorEpoch=2), key=honest))


@attack("envelope 6", d.DIRECTOR_EPOCH, 29, row="director", kind="revocation")
def word_that_a_thief_of_both_epochs_signs_for_the_first(s: Scene) -> Attempt:
    """One key directs in both epochs; a word of the first is kept until the second."""
    s.took()
    kept = s.sealed(word(7))
    draft = other()
    draft.director = director(2)
    s.took(draft, versions=(2, 2, 2), also=good().listed())
    return saying(kept)


@attack("envelope 9", d.BROUGHT, HELD, row="director", kind="rollback", rests_on=(d.LISTED,))
def word_that_names_what_is_not_listed_any_more(s: Scene) -> Attempt:
    """The director goes back to a version that was taken off the list."""
    old = good()
    digest = digest_of(old.blobs["manifest"])
    s.took(old)
    s.took(other(), versions=(2, 2, 2))
    return saying(s.sealed(word(documents=[wire_deployment("notes", f"small@{digest}")])))


# --- what goes up ---------------------------------------------------------------------------------


def packed(me: Addressee, key: SigningKey, stream: Stream = Stream.USAGE) -> bytes:
    record = Record(1, {"at": "now", "kind": "test", "body": {"n": 1}})
    return batch.maker(stream, me, key, "2026-12-01T00:00:00.000Z")(Position(), [record]).envelope


def sending(data: bytes, key: str, sender: Addressee, stream: str = "usage") -> Attempt:
    """Have the hub open what came on a topic of ``sender``, whom it knows by ``key``."""
    return lambda _: batch.open_batch(data, {key}, sender, stream)


@attack("envelope 3", d.ENVELOPE_SIGNED, 20, row="node", kind="wrong key")
def batch_by_another_nodes_key(s: Scene) -> Attempt:
    """A node, or who holds the broker, writes records for another node."""
    known = new_key().public
    sender = replace(s.me, node_key=known)
    return sending(packed(sender, new_key()), known, sender)


@attack("envelope 5", d.BATCH_SENDER, 28, row="node", kind="replay")
def batch_of_another_stream(s: Scene) -> Attempt:
    """A broker moves a batch of one stream to another's topic, whose numbers it would use up."""
    key = new_key()
    sender = replace(s.me, node_key=key.public)
    return sending(packed(sender, key, Stream.EVENTS), key.public, sender, "audit")


@attack("envelope 2", d.ENVELOPE_TYPE, 27, row="node", kind="wrong role")
def report_in_place_of_a_batch(s: Scene) -> Attempt:
    """What a node signed for another purpose is offered as a batch of its records."""
    key = new_key()
    sender = replace(s.me, node_key=key.public)
    payload = base64.b64decode(wire.loads(packed(sender, key), what="it")["payload"])
    return sending(dsse.sign(Slot.REPORTED, payload, key), key.public, sender)


@attack("envelope 1", d.UNPACKED_CAP, 27, row="node", kind="endless data")
def batch_that_unpacks_without_end(s: Scene) -> Attempt:
    """A few kilobytes unpack to more than any hub has memory for."""
    key = new_key()
    sender = replace(s.me, node_key=key.public)
    record = {"at": "now", "kind": "test", "body": {"n": "0" * (9 << 20)}}
    about: Mapping[str, Any] = {
        **sender.fields(), "stream": "usage", "first": 1, "n": 1, "previous": "",
        "records": [record],
    }  # fmt: skip
    data = dsse.sign(Slot.BATCH, ZSTD.compress(wire.dumps(about)), key)
    assert len(data) < 64 << 10
    return sending(data, key.public, sender)
