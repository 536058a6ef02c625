"""Each request leaves one record, whoever dies in between."""

import dataclasses
import datetime

import pytest

from appliance.core import usage
from appliance.core.usage import Generated, Outcome, UsageRecord
from appliance.errors import MalformedError

ACCEPTED = UsageRecord("1", "2026-12-01T08:00:00Z", "r-1", "/v1/chat", "m", None, stream=True)
DONE = dataclasses.replace(
    ACCEPTED, status=200, outcome=Outcome.OK, prompt_tokens=7, duration_ms=1.5
)
BEGIN, END = usage.begin_line(ACCEPTED), usage.end_line(DONE)


def test_a_request_counts_when_it_is_over() -> None:
    first = usage.take(BEGIN, 0, finished=False)
    assert (first.records, list(first.open)) == ((), ["1"])
    second = usage.take(BEGIN + END, first.offset, finished=False)
    assert (second.records, second.open) == ((DONE.to_wire(),), {})
    assert usage.take(BEGIN + END, second.offset, finished=False).records == ()


def test_a_request_without_an_end_in_a_finished_spool_was_cut() -> None:
    (record,) = usage.take(BEGIN, 0, finished=True).records
    assert record == ACCEPTED.to_wire() | {"outcome": "cut"}


def test_a_cut_request_is_seen_although_its_begin_was_read_long_ago() -> None:
    seen = usage.take(BEGIN, 0, finished=False)
    assert len(usage.take(BEGIN, seen.offset, finished=True).records) == 1


def test_a_finished_spool_that_is_looked_at_again_gives_nothing() -> None:
    # The taker may be killed after its commit and before it removes the file.
    for data in (b"", BEGIN, BEGIN + END, BEGIN + END[:-9]):
        taken = usage.take(data, 0, finished=True)
        assert usage.take(data, taken.offset, finished=True).records == ()


def test_a_torn_last_line_waits_for_its_rest_and_never_counts_without_it() -> None:
    torn = usage.take(BEGIN + END[:-1], 0, finished=False)
    assert (torn.records, torn.offset) == ((), len(BEGIN))
    assert usage.take(BEGIN + END, torn.offset, finished=False).records == (DONE.to_wire(),)
    (record,) = usage.take(BEGIN + END[:-1], torn.offset, finished=True).records
    assert record["outcome"] == "cut"


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b'{"phase":"middle","record":{"id":"1","at":"x"}}\n',
        b'{"phase":"end","record":"1"}\n',
        b'{"phase":"end","record":{"at":"x"}}\n',
        b'{"phase":"begin","record":{"id":["1"],"at":"x"}}\n',
        b'{"phase":"end","record":{"id":"1"}}\n',
        BEGIN[:40] + b"\n",
    ],
)
def test_a_complete_line_that_is_no_usage_fact_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedError, match="usage spool"):
        usage.take(BEGIN + line, 0, finished=False)


# --- How fast -------------------------------------------------------------------------------------

NOW = datetime.datetime(2026, 12, 1, 8, 10, tzinfo=datetime.UTC)
MINUTE = datetime.timedelta(seconds=60)


def generated(ends_s: float, took_s: float, tokens: int, model: str = "m") -> Generated:
    """A request that ended so long before now."""
    until = NOW - datetime.timedelta(seconds=ends_s)
    return Generated(model, until - datetime.timedelta(seconds=took_s), until, tokens)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], {}),
        ([generated(10, 5, 120)], {"m": 2.0}),
        ([generated(10, 0, 120)], {"m": 2.0}),
        ([generated(10, 5, 60), generated(40, 1, 60)], {"m": 2.0}),
        ([generated(0, 600, 6000)], {"m": 10.0}),
        ([generated(30, 60, 120)], {"m": 1.0}),
        ([generated(-30, 60, 120)], {"m": 1.0}),
        ([generated(60, 5, 500), generated(61, 5, 500), generated(-61, 5, 500)], {}),
        ([generated(1, 1, 0)], {}),
        ([generated(1, 1, 60), generated(1, 1, 30, "n")], {"m": 1.0, "n": 0.5}),
    ],
)
def test_tokens_per_second_counts_what_fell_into_the_last_minute(
    found: list[Generated], expected: dict[str, float]
) -> None:
    assert usage.tokens_per_second(found, NOW, MINUTE) == pytest.approx(expected)


def test_a_record_says_when_its_tokens_came() -> None:
    record = DONE.to_wire() | {
        "completion_tokens": 9,
        "first_token_ms": 500.0,
        "duration_ms": 1500.0,
    }
    assert Generated.of(record) == Generated(
        "m",
        datetime.datetime(2026, 12, 1, 8, 0, 0, 500_000, tzinfo=datetime.UTC),
        datetime.datetime(2026, 12, 1, 8, 0, 1, 500_000, tzinfo=datetime.UTC),
        9,
    )


@pytest.mark.parametrize(
    "change", [{"model": None}, {"model": ""}, {"model": 7}, {"status": 404}, {"at": "never"},
               {"duration_ms": 1e300}],
)  # fmt: skip
def test_a_record_for_no_model_of_ours_says_nothing(change: dict[str, object]) -> None:
    assert Generated.of(DONE.to_wire()) is not None
    assert Generated.of(DONE.to_wire() | change) is None


def test_an_engine_that_did_not_say_how_many_gave_none() -> None:
    record = DONE.to_wire() | {"completion_tokens": None, "first_token_ms": None}
    found = Generated.of(record)
    assert found is not None
    assert found.tokens == 0
