"""Each request leaves one record, whoever dies in between."""

import dataclasses

import pytest

from appliance.core import usage
from appliance.core.usage import Outcome, UsageRecord
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
