"""Every import, refusal and activation makes a receipt that continues the one before it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.core import wire
from appliance.errors import CorruptError, NotFoundError, SignatureError
from appliance.ledger import chain, receipts, streams
from appliance.ledger.receipts import MOST_REFUSALS
from appliance.ledger.streams import Fact, Stream
from appliance.trust import floor, receipt
from tests.helpers.signing import new_key
from tests.helpers.sticks import DAY, Site, digest

IMPORTED = receipt.imported("small", "1.0.0")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "node", new_key())
    yield made
    made.close()


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    made = tmp_path / "stick"
    made.mkdir()
    return made


def test_a_receipt_says_how_things_are(site: Site) -> None:
    assert site.make(IMPORTED) == 1
    (found,) = site.opened()
    said = found.payload
    assert said["bundle"] == {"name": "small", "version": "1.0.0"}
    assert (said["kind"], said["outcome"], said["activated"]) == ("import", None, None)
    assert (said["issued"], said["proven"]) == ("2026-12-01T00:00:00.000Z", True)
    assert said["store"] == [digest(1), digest(2)]
    assert said["metadata"]["root"]["version"] == 1
    assert len(said["metadata"]["root"]["sha256"]) == 64
    assert said["floor"] == "2026-11-21T00:00:00.000Z"
    assert said["audit"] == site.ledger.read(chain.head).to_wire()
    assert said["audit"]["seq"] == 1, "it covers the audit record of what it reports"
    assert (said["nonce"], said["omitted"]) == (None, 0)


def test_receipts_are_chained_and_numbered_without_a_gap(site: Site) -> None:
    for _ in range(3):
        site.make(IMPORTED)
    found = site.opened()
    assert [f.seq for f in found] == [1, 2, 3]
    assert [f.previous for f in found] == ["", found[0].hash, found[1].hash]


def test_a_receipt_and_its_effect_are_there_together_or_not_at_all(site: Site) -> None:
    def effect(db: Any) -> None:
        site.book.make(db, IMPORTED)
        raise CorruptError("the import failed after all")

    with pytest.raises(CorruptError):
        site.ledger.record(effect).result()
    assert site.opened() == []
    assert site.make(IMPORTED) == 1


def test_the_time_in_a_receipt_is_the_floor_when_the_clock_cannot_be_right(site: Site) -> None:
    for year in (1970, 2038):
        site.clock.time = site.clock.time.replace(year=year)
        site.make(IMPORTED)
    assert {(f.payload["issued"], f.payload["proven"]) for f in site.opened()} == {
        ("2026-11-21T00:00:00.000Z", False)
    }


def test_a_hostile_stick_does_not_fill_the_disk_with_refusals(site: Site) -> None:
    def refuse(number: int) -> int | None:
        return site.make(receipt.refused(SignatureError(f"the stick says {number}")))

    made = [refuse(n) for n in range(100)]
    assert made == [*range(1, MOST_REFUSALS + 1), *[None] * (100 - MOST_REFUSALS)]
    assert len(site.records(Stream.RECEIPTS)) == MOST_REFUSALS
    site.make(IMPORTED)
    assert site.opened()[-1].payload["omitted"] == 100 - MOST_REFUSALS
    assert refuse(1) is not None
    assert site.opened()[-1].payload["omitted"] == 0


def test_the_same_refusal_again_makes_no_other_receipt(site: Site) -> None:
    event = receipt.refused(SignatureError("not signed"), ("small", "1.0.0"))
    assert [site.make(event) for _ in range(3)] == [1, None, None]


def test_only_another_manifest_makes_a_receipt_of_an_activation(site: Site) -> None:
    found = [
        site.book.activate("notes", "small:1.0.0-Q4_0", manifest)
        for manifest in ("one", "one", "two", "one")
    ]
    assert found == [1, None, 2, 3]
    assert site.opened()[1].payload["activated"] == {
        "deployment": "notes", "model": "small:1.0.0-Q4_0", "manifest": "two",
    }  # fmt: skip
    assert [r["kind"] for r in site.records(Stream.AUDIT)] == ["activated"] * 3


def test_a_receipt_goes_to_the_outbox_in_pieces_that_fit_into_batches(site: Site) -> None:
    site.held = [digest(n) for n in range(2000)]
    site.make(IMPORTED)
    bodies = [r["body"] for r in site.records(Stream.RECEIPTS)]
    assert [(b["seq"], b["part"], b["of"]) for b in bodies] == [
        (1, n, len(bodies)) for n in range(1, len(bodies) + 1)
    ]
    assert all(len(wire.dumps(b)) < 44 << 10 for b in bodies)
    row = site.ledger.read(receipts.newest)
    assert row is not None
    assert "".join(b["text"] for b in bodies).encode() == row.envelope


def test_export_writes_every_receipt_and_asks_for_the_time(site: Site, stick: Path) -> None:
    site.make(IMPORTED)
    found = site.book.export(stick)
    assert (found.written, found.receipts, found.upto) == (2, 2, 2)
    epoch = site.ledger.epoch
    names = sorted(p.name for p in (stick / "up" / "box-1" / "receipts").iterdir())
    assert names == [f"{epoch}-1.json", f"{epoch}-2.json"]
    last = site.opened()[-1]
    assert (last.payload["kind"], last.nonce, last.hash) == ("export", site.nonce(), found.head)
    assert last.nonce is not None


def test_export_again_changes_nothing_until_something_happens(site: Site, stick: Path) -> None:
    first, again = site.book.export(stick), site.book.export(stick)
    assert (again.written, again.upto, again.head) == (0, first.upto, first.head)
    nonce = site.nonce()
    site.held.append(digest(3))
    assert site.book.export(stick).written == 1
    site.ledger.note(Fact(Stream.AUDIT, "apply", "now", {})).result()
    site.sign_offline(floor.BUILT + DAY)
    assert site.book.export(stick).written == 1
    site.make(IMPORTED)
    assert site.book.export(stick).upto == 4, "an import says it all itself"
    assert site.nonce() == nonce
    assert {f.nonce for f in site.opened()} == {nonce}


def test_an_export_to_nowhere_changes_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        site.book.export(tmp_path / "no stick")
    assert (site.opened(), site.nonce()) == ([], None)


def test_receipts_are_listed_and_shown(site: Site) -> None:
    site.make(IMPORTED)
    (row,) = site.book.all()
    assert (row["seq"], row["kind"], row["blobs"]) == (1, "import", 2)
    whole = site.book.one(1)
    assert whole["hash"] == row["hash"]
    assert whole["payload"]["store"] == [digest(1), digest(2)]
    data = json.dumps(whole["envelope"]).encode()
    receipt.open_receipt(data, {site.key.public}, "acme", "box-1")
    with pytest.raises(NotFoundError):
        site.book.one(2)


def test_the_audit_heads_in_receipts_are_witnesses_of_the_audit_stream(site: Site) -> None:
    for _ in range(4):
        site.make(IMPORTED)
    waiting = site.ledger.read(lambda db: list(streams.waiting(db, Stream.AUDIT, 99)))
    records = [(r.seq, wire.dumps(r.record)) for r in waiting]
    witnesses = dict(f.audit for f in site.opened())
    assert chain.verify(records, witnesses) == site.ledger.read(chain.head)
    records[1] = (2, records[0][1] + b" ")
    with pytest.raises(CorruptError):
        chain.verify(records, witnesses)
