"""What a node says of itself, signed and numbered so that an old report is known as old."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.cache.index import BlobState, Wanted
from appliance.core import reading
from appliance.ledger import chain, streams
from appliance.ledger.streams import Fact, Stream
from appliance.node import desired
from appliance.node.desired import FleetWord
from appliance.node.report import Reporter
from appliance.trust.envelope import Accepted, Addressee, Slot, accept, check_expiry
from appliance.trust.floor import Now
from tests.helpers.models import deployment, digest_of, machine, variant, wire_site
from tests.helpers.nodes import ControlledNode
from tests.helpers.signing import new_key

KEY = new_key()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ControlledNode]:
    made = ControlledNode(tmp_path)
    made.bring(variant())
    yield made
    made.ledger.close()


def reporter(node: ControlledNode) -> Reporter:
    return Reporter(node.ledger, node.board, machine, node.clock)


def signed(node: ControlledNode) -> Accepted:
    me = Addressee("acme", "box-1", KEY.public, node.ledger.epoch)
    data = asyncio.run(reporter(node).signed(me, KEY))
    found = accept(data, Slot.REPORTED, {KEY.public}, me.fields())
    check_expiry(found, Now(node.clock.utc(), proven=True))
    return found


def test_a_report_is_signed_and_its_number_grows(node: ControlledNode) -> None:
    found = [signed(node).payload for _ in range(3)]
    assert [f["report"] for f in found] == [1, 2, 3]
    assert found[0]["at"] == "2026-12-01T00:00:00.000Z"
    assert found[0]["machine"]["cpu_model"] is None, "what is not known is said to be so"


def test_a_report_says_what_is_in_force_and_how_it_departs_from_the_fleet(
    node: ControlledNode,
) -> None:
    site = reading.from_wire(wire_site(), "a test")
    word = FleetWord(1, 7, "hash", (deployment("a", replicas=2), deployment("b"), site))
    node.ledger.record(partial(desired.set_fleet, word=word)).result()
    node.apply("a", replicas=1)
    node.apply("c", replicas=0)
    node.ledger.record(partial(desired.delete_locally, name="b", by="me", at="now")).result()
    asyncio.run(node.controller.reconcile())
    body = signed(node).payload
    assert body["applied"] == {"generation": 7, "hash": "hash", "directorEpoch": 1}
    assert [d["name"] for d in body["deployments"]] == ["a", "c"]
    assert body["removed"] == ["b"]
    assert body["drift"] == {
        "a": "replicas is 1 here, 2 in the fleet",
        "b": "removed here; the fleet asks for it",
        "c": "only here; the fleet does not ask for it",
    }


def test_a_report_says_how_much_of_each_stream_the_hub_has(node: ControlledNode) -> None:
    node.ledger.note(*[Fact(Stream.USAGE, "t", "", {})] * 3).result()
    assert reporter(node).streams()["usage"] == {"written": 3, "acknowledged": 0, "hash": ""}
    assert set(reporter(node).streams()) == {str(s) for s in streams.Stream}


def test_a_report_says_what_the_node_lost_and_wants_again(node: ControlledNode) -> None:
    lost = [
        Wanted(digest_of(str(n)), 9, BlobState.DAMAGED, ("small:1.0.0-Q4_0",)) for n in range(60)
    ]
    found = Reporter(node.ledger, node.board, machine, node.clock, lambda: lost)
    wanted = found.body()["wanted"]
    assert wanted[0] == {
        "digest": digest_of("0"), "size": 9, "state": "damaged", "models": ["small:1.0.0-Q4_0"],
    }  # fmt: skip
    assert len(wanted) == 50, "a report must stay small"
    assert reporter(node).body()["wanted"] == []


def test_a_report_says_that_the_disk_is_full(node: ControlledNode) -> None:
    full = Reporter(node.ledger, node.board, machine, node.clock, reserve=lambda: False)
    assert [r.body()["reserve"] for r in (full, reporter(node))] == [False, True]


def test_a_report_names_the_head_and_the_count_of_the_audit_log(node: ControlledNode) -> None:
    assert signed(node).payload["audit"] == {"seq": 0, "hash": chain.GENESIS}
    node.ledger.note(*[Fact(Stream.AUDIT, "t", "", {})] * 3).result()
    head = node.ledger.read(chain.head)
    assert signed(node).payload["audit"] == {"seq": 3, "hash": head.hash}


def test_the_head_is_that_of_the_moment_in_which_the_number_was_drawn(
    node: ControlledNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two reports at one time, for link and stick, the later one never names an earlier head."""
    body = Reporter.body

    def delayed(self: Reporter) -> dict[str, object]:
        node.ledger.note(Fact(Stream.AUDIT, "meanwhile", "", {})).result()
        return body(self)

    monkeypatch.setattr(Reporter, "body", delayed)
    assert [signed(node).payload["audit"]["seq"] for _ in range(3)] == [0, 1, 2]
