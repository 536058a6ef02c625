"""The audit log that is kept here: whole, or it says what is not; let go only when it may be."""

import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.core import reading
from appliance.core.documents import Site as SiteDocument
from appliance.errors import CorruptError, IncompleteError, ScopeError, SignatureError, UsageError
from appliance.ledger import chain, receipts, retained, streams
from appliance.ledger.head import Head
from appliance.ledger.streams import Stream
from appliance.node import auditing, desired
from appliance.node.auditing import AuditKeeper, Witness
from appliance.node.identity import NodeIdentity
from appliance.trust.receipt import EXPORTED
from tests.helpers.carrying import Carried
from tests.helpers.models import wire_site
from tests.helpers.signing import new_key

DAY = datetime.timedelta(days=1)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Carried]:
    made = Carried(tmp_path)
    yield made
    made.close()


def write(pair: Carried, statement: str, *values: object) -> None:
    """Change the ledger as somebody with the disk in hand would."""
    pair.site.ledger.record(lambda db: db.execute(statement, values).rowcount).result()


def bring_home(pair: Carried) -> None:
    stick = pair.stick("home")
    pair.export(stick)
    pair.bring(stick)
    pair.take(stick)
    assert pair.left(Stream.AUDIT) <= 1  # that the time was taken is news


def verified(pair: Carried, *witnesses: Witness) -> auditing.Verified:
    return auditing.verify(pair.site.ledger, witnesses)


def test_an_acknowledgement_frees_the_outbox_and_not_the_audit_log(pair: Carried) -> None:
    pair.note(5, Stream.AUDIT)
    bring_home(pair)
    found = verified(pair)
    assert found.first == 1
    assert found.last >= 5
    assert found.hash == pair.site.ledger.read(chain.head).hash


def test_an_empty_log_is_whole(pair: Carried) -> None:
    assert verified(pair).last == 0


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE audit SET record = replace(record, 'test', 'best') WHERE seq = 3", CorruptError),
        ("DELETE FROM audit WHERE seq = 3", IncompleteError),
        ("DELETE FROM audit WHERE seq = 1", IncompleteError),
        ("DELETE FROM audit WHERE seq = 5", IncompleteError),
    ],
)
def test_a_record_that_was_changed_or_cut_shows(
    pair: Carried, statement: str, error: type[Exception]
) -> None:
    pair.note(5, Stream.AUDIT)
    write(pair, statement)
    with pytest.raises(error):
        verified(pair)


def test_a_tail_that_was_cut_with_its_head_shows_against_a_witness_alone(pair: Carried) -> None:
    pair.note(3, Stream.AUDIT)
    older = pair.site.ledger.read(chain.head)
    pair.note(2, Stream.AUDIT)
    newer = pair.site.ledger.read(chain.head)
    write(pair, "DELETE FROM audit WHERE seq > 3")
    write(pair, "UPDATE meta SET value = ? WHERE key = 'audit-head'", str(older))
    verified(pair)
    with pytest.raises(IncompleteError, match="a witness saw 5 records"):
        verified(pair, Witness(5, newer.hash[:8], "the shift book"))
    verified(pair, Witness(3, older.hash[:8], "the shift book"))
    with pytest.raises(CorruptError):
        verified(pair, Witness(3, newer.hash[:8], "the shift book"))


def test_a_receipt_is_a_witness_if_this_node_signed_it_in_this_ledger(pair: Carried) -> None:
    pair.note(3, Stream.AUDIT)
    pair.site.make(EXPORTED)
    site = pair.site
    (row,) = [r.envelope for r in site.ledger.read(receipts.rows)]
    me = pair.carrier.identity
    (witness,) = auditing.signed([row], me, site.ledger.epoch)
    assert verified(pair, witness).witnesses == 1
    with pytest.raises(ScopeError, match="of the ledger"):
        list(auditing.signed([row], me, "another"))
    with pytest.raises(SignatureError):
        list(auditing.signed([row], NodeIdentity(me.node, new_key()), site.ledger.epoch))


def test_two_witnesses_that_differ_are_proof_enough(pair: Carried) -> None:
    pair.note(3, Stream.AUDIT)
    with pytest.raises(CorruptError, match="contradicts"):
        verified(pair, Witness(2, "0" * 8, "one"), Witness(2, "1" * 64, "two"))


@pytest.mark.parametrize("digits", ["", "12345", "xyz45678", "0" * 65])
def test_digits_that_could_be_anything_are_no_witness(digits: str) -> None:
    with pytest.raises(UsageError):
        list(auditing.spoken([{"seq": 1, "hash": digits}]))


def keeper(pair: Carried) -> AuditKeeper:
    return AuditKeeper(pair.site.ledger, pair.site.clock)


def test_what_is_old_goes_and_the_rest_still_verifies(pair: Carried) -> None:
    pair.note(5, Stream.AUDIT)
    bring_home(pair)
    clock = pair.site.clock
    clock.time = datetime.datetime(2026, 12, 10, tzinfo=datetime.UTC)
    assert keeper(pair).tend() == 0
    clock.time = datetime.datetime(2027, 12, 2, tzinfo=datetime.UTC)
    pair.site.sign_offline(clock.time)
    gone = keeper(pair).tend()
    assert gone >= 5
    pair.note(1, Stream.AUDIT)
    found = verified(pair)
    assert found.first > 5
    with pytest.raises(IncompleteError, match="begins behind"):
        verified(pair, Witness(2, "0" * 8, "an old receipt"))


def test_what_the_hub_has_not_stays_for_ever_and_so_does_all_in_unproven_time(
    pair: Carried,
) -> None:
    pair.note(5, Stream.AUDIT)
    far = datetime.datetime(2028, 6, 1, tzinfo=datetime.UTC)
    pair.site.clock.time = far
    pair.site.sign_offline(far)
    assert keeper(pair).tend() == 0
    pair.desk.hub.clock.time = far
    bring_home(pair)
    pair.site.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert keeper(pair).tend() == 0
    pair.site.clock.time = far
    assert keeper(pair).tend() >= 5


def test_a_site_says_how_long_but_no_word_makes_it_less_than_a_month(pair: Carried) -> None:
    pair.note(5, Stream.AUDIT)
    bring_home(pair)
    document = {**wire_site(), "spec": {"retention": {"audit": "1s"}}}
    site = reading.from_wire(document, "test")
    assert isinstance(site, SiteDocument)
    apply = partial(desired.apply_locally, document=site, by="me", at="now")
    pair.site.ledger.record(apply).result()
    start = pair.site.clock.time = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC)
    pair.site.sign_offline(start)
    pair.site.clock.time = start + 29 * DAY
    assert keeper(pair).tend() == 0
    pair.site.clock.time = start + 31 * DAY
    assert keeper(pair).tend() >= 5


def test_the_disk_has_an_end(pair: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.note(12, Stream.AUDIT)
    bring_home(pair)
    monkeypatch.setattr(retained, "MOST_RECORDS", 4)
    pair.site.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    keeper(pair).tend()
    found = verified(pair)
    acked = pair.site.ledger.read(partial(streams.position, stream=Stream.AUDIT)).acked_upto
    assert found.last - found.first + 1 <= 4 + found.last - acked
    assert Head(found.last, found.hash) == pair.site.ledger.read(chain.head)
