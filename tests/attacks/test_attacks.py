"""Every attack ends as its entry says, and changes nothing."""

import re
from typing import Any

import pytest

from appliance.ledger import commands, receipts
from appliance.node import desired
from tests.attacks.attack import ACCEPTED, HARMLESS, Attack, Stage, verdict_of
from tests.attacks.corpus import ATTACKS
from tests.helpers.importing import Seen
from tests.helpers.organisation import Node

STEPS = {*range(1, 16)}
ROWS = {"root", "targets", "timestamp", "publisher", "site", "director", "sync", "node"}


def by_name(found: Attack) -> str:
    return found.name


def said(node: Node) -> tuple[Any, ...]:
    """Return what the hub may have changed."""
    queries: list[Any] = [desired.fleet, receipts.nonce, commands.last]
    return tuple(node.ledger.read(query) for query in queries)


@pytest.mark.parametrize("found", ATTACKS, ids=by_name)
def test_it_ends_as_it_must_and_changes_nothing(stage: Stage, found: Attack) -> None:
    node, attempt = stage.ready(found)
    try:
        before, hub_before = Seen.of(node), said(node)
        assert verdict_of(node, attempt) == found.verdict
        after = Seen.of(node)
        if found.verdict in (ACCEPTED, HARMLESS):
            return  # it looked for itself: the right word came through, the thief's did nothing
        assert said(node) == hub_before
        if found.keeps:
            assert after.without_trust() == before.without_trust()
        else:
            assert after == before
    finally:
        node.close()


def test_each_step_of_an_import_and_each_row_of_the_key_table_is_attacked() -> None:
    steps = {int(m[1]) for a in ATTACKS if (m := re.fullmatch(r"import (\d+)", a.step))}
    assert steps == STEPS
    envelopes = {int(m[1]) for a in ATTACKS if (m := re.fullmatch(r"envelope (\d+)", a.step))}
    assert envelopes == {*range(1, 11)}
    assert {a.row for a in ATTACKS} - {""} == ROWS
    kinds = {a.kind for a in ATTACKS}
    assert kinds >= {
        "rollback", "freeze", "mix-and-match", "endless data", "wrong role",
        "key compromise below threshold", "fast-forward recovery", "nonce",
    }  # fmt: skip
