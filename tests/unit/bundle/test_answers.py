"""Taking a signed time: each step of TRUST's second algorithm is one defence."""

import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.format import courier
from appliance.bundle.media.medium import FolderMedium
from appliance.bundle.take.answers import TimeTaken
from appliance.errors import (
    ApplianceError,
    EarlierLedgerError,
    ExpiredError,
    MalformedError,
    NotFoundError,
    RefusedError,
    ReplayError,
    ScopeError,
    SignatureError,
)
from appliance.ledger import meta
from appliance.ledger.streams import Stream
from appliance.trust import floor
from appliance.trust.envelope import Slot
from tests.helpers.signing import new_key
from tests.helpers.sticks import DAY, Site

T = floor.BUILT + 30 * DAY
OTHER = new_key()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "node", new_key())
    made.clock.time = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    yield made
    made.close()


def test_an_answer_raises_the_floor_and_uses_the_nonce_up(site: Site) -> None:
    site.ask()
    found = site.answers.take_time(site.answer(T))
    assert found == TimeTaken("2026-12-21T00:00:00.000Z", "2026-12-21T00:00:00.000Z")
    assert (site.floor(), site.nonce()) == (T, None)
    (record,) = site.records(Stream.AUDIT)
    assert record["kind"] == "time-taken"


def test_an_answer_counts_once(site: Site) -> None:
    site.ask()
    data = site.answer(T)
    site.answers.take_time(data)
    with pytest.raises(ReplayError) as caught:
        site.answers.take_time(data)
    assert caught.value.exit_code == 30
    site.ask()
    with pytest.raises(ReplayError):
        site.answers.take_time(data)
    assert site.nonce() is not None, "a replay does not use up the question that waits"


def test_what_the_hub_says_again_on_the_wire_is_quietly_nothing(site: Site) -> None:
    site.ask()
    before, older = site.answer(T), site.answer(T, nonce="11" * 32)
    assert site.answers.hear_time(before)
    site.ask()
    data = [site.answer(T + n * DAY / 8) for n in (1, 2)]  # it says what time it is by then
    assert site.answers.hear_time(data[0])
    site.ask()
    waits = site.nonce()
    assert [site.answers.hear_time(again) for again in data] == [None, None]
    assert (site.floor(), site.nonce()) == (T + DAY / 8, waits)
    assert [r["kind"] for r in site.records(Stream.AUDIT)] == ["time-taken", "time-taken"]
    for refused_still in (before, older):
        with pytest.raises(ReplayError):
            site.answers.hear_time(refused_still)
    with pytest.raises(SignatureError):
        site.answers.hear_time(site.answer(T, key=OTHER))


def test_an_answer_that_comes_twice_at_once_counts_once(site: Site) -> None:
    site.ask()
    data = site.answer(T)

    def take(_: int) -> str:
        try:
            site.answers.take_time(data)
        except ReplayError:
            return "replayed"
        return "taken"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(take, range(8)))
    assert sorted(found) == ["replayed"] * 7 + ["taken"]


def refused(site: Site, data: bytes, error: type[ApplianceError]) -> None:
    before = (site.floor(), site.nonce())
    with pytest.raises(error):
        site.answers.take_time(data)
    assert (site.floor(), site.nonce()) == before


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"key": OTHER}, SignatureError),
        ({"slot": Slot.ACK}, MalformedError),
        ({"org": "other"}, ScopeError),
        ({"node": "box-2"}, ScopeError),
        ({"nodeKey": OTHER.public}, ScopeError),
        ({"dbEpoch": "another"}, ScopeError),
        ({"nonce": "11" * 32}, ReplayError),
        ({"nonce": "11"}, MalformedError),
        ({"nonce": None}, MalformedError),
        ({"time": "noon"}, MalformedError),
        ({"time": None}, MalformedError),
        ({"time": "2999-01-01T00:00:00Z"}, MalformedError),
        ({"time": "2026-11-22T00:00:00Z"}, MalformedError),
        ({"expires": "2026-11-01T00:00:00Z"}, MalformedError),
        ({"issued": floor.BUILT - 9 * DAY, "time": "2026-11-12T12:00:00Z"}, ExpiredError),
    ],
)
def test_what_one_defence_stops_changes_nothing(
    site: Site, changes: dict[str, Any], error: type[RefusedError]
) -> None:
    site.ask()
    refused(site, site.answer(T, **changes), error)
    (record,) = site.records(Stream.AUDIT)
    assert (record["kind"], record["body"]["code"]) == ("time-refused", error.code)


def test_an_answer_for_another_ledger_of_this_node_is_refused(site: Site) -> None:
    site.ask()
    refused(site, site.answer(T, to=replace(site.me, db_epoch="older")), ScopeError)


def test_an_answer_to_a_ledger_of_before_a_restore_is_old_and_no_attack(site: Site) -> None:
    site.ask()
    site.ledger.record(lambda db: meta.add_earlier_epochs(db, ["before"])).result()
    refused(site, site.answer(T, to=replace(site.me, db_epoch="before")), EarlierLedgerError)
    assert site.records(Stream.AUDIT) == []


def test_a_sync_key_that_offline_keys_replaced_answers_no_more(site: Site) -> None:
    site.ask()
    data = site.answer(T)
    site.name_director(sync=OTHER)
    refused(site, data, SignatureError)


def test_an_answer_nobody_asked_for_is_refused(site: Site) -> None:
    refused(site, site.answer(T), ReplayError)


def test_the_hub_cannot_push_time_far(site: Site) -> None:
    site.ask()
    found = site.answers.take_time(site.answer(floor.BUILT + 9000 * DAY))
    assert site.floor() == floor.BUILT + floor.SPAN
    assert found.floor < found.time


def test_an_answer_older_than_what_was_signed_since_takes_nothing_back(site: Site) -> None:
    site.ask()
    data = site.answer(T)
    site.sign_offline(T + DAY / 2)
    site.answers.take_time(data)
    assert site.floor() == T + DAY / 2


def test_refusals_are_audited_sparingly(site: Site) -> None:
    for number in range(50):
        with pytest.raises(RefusedError):
            site.answers.take_time(site.answer(T, org=f"other-{number}"))
    assert len(site.records(Stream.AUDIT)) == 20


def test_before_any_bundle_nobody_can_sign_a_time(site: Site) -> None:
    data = site.answer(T)
    (site.folder / "tuf" / "current" / "trust" / "director.json").unlink()
    refused(site, data, NotFoundError)


def test_a_stick_brings_the_answer_alone_or_beside_a_bundle(site: Site, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    with pytest.raises(NotFoundError):
        site.answers.take_folder(stick)
    stick.mkdir()
    with pytest.raises(NotFoundError, match="no time for box-1"):
        site.answers.take_folder(stick)
    medium = FolderMedium(stick)
    assert site.answers.take_along(medium) is None
    for days, take in ((0, site.answers.take_folder), (1, None)):
        site.ask()
        data = site.answer(T + days * DAY)
        courier.write(stick, courier.answers_folder(stick, "box-1"), {courier.TIME: data})
        found = site.answers.take_along(medium) if take is None else take(stick)
        assert isinstance(found, TimeTaken)
        assert site.floor() == T + days * DAY
    assert isinstance(site.answers.take_along(medium), ReplayError), "returned, not raised"
