"""Coarsened records stand for the same numbers, and say the least, the mean and the most."""

from typing import Any

from appliance.core.coarsen import Entry, coarsen, gap, whole_windows


def at(second: int) -> str:
    return f"2026-12-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.000Z"


def entry(seq: int, second: int, kind: str = "host", **body: Any) -> Entry:
    return Entry(seq, 1, {"at": at(second), "kind": kind, "body": body})


def test_records_are_parted_by_the_minute_and_the_last_minute_waits_for_its_end() -> None:
    found = [entry(n, second) for n, second in enumerate((0, 59, 60, 119, 120), start=1)]
    assert [[e.first for e in w] for w in whole_windows(found, 60)] == [[1, 2], [3, 4]]
    assert [[e.first for e in w] for w in whole_windows(found[:2], 60)] == [[1, 2]]


def test_a_clock_that_jumps_or_makes_no_sense_only_makes_more_windows() -> None:
    times = [at(0), "1970-01-01T00:00:00.000Z", at(1), "soon", "soon", at(2), at(90)]
    found = [Entry(n, 1, {"at": t, "kind": "k", "body": {}}) for n, t in enumerate(times, 1)]
    windows = [[e.first for e in w] for w in whole_windows(found, 60)]
    assert windows == [[1], [2], [3], [4, 5], [6]]


def test_each_series_keeps_how_many_least_mean_and_most() -> None:
    one = coarsen(
        [
            entry(7, 0, load=1.0),
            entry(8, 0, "gpu", id="a", celsius=60, name="text", ok=True),
            entry(9, 1, load=2.0, free=5),
            entry(10, 1, "gpu", id="b", celsius=50),
            entry(11, 2, load=6.0),
        ],
        60,
    )
    assert (one.first, one.span, one.upto) == (7, 5, 11)
    assert one.record == {
        "at": at(0),
        "kind": "coarse",
        "body": {
            "every_s": 60,
            "until": at(2),
            "series": {
                "host": {"load": [3, 1.0, 3, 6.0], "free": [1, 5, 5, 5]},
                "gpu/a": {"celsius": [1, 60, 60, 60]},
                "gpu/b": {"celsius": [1, 50, 50, 50]},
            },
        },
    }


def test_coarsening_again_adds_up_as_if_it_had_been_done_at_once() -> None:
    found = [entry(n, n, load=float(n % 7), free=n) for n in range(1, 1801)]
    minutes = [coarsen(w, 60) for w in whole_windows([*found, entry(1801, 1801)], 60)]
    assert [m.span for m in minutes] == [59, *[60] * 29]
    twice, once = coarsen(minutes[:15], 900), coarsen(found[:899], 900)
    assert (twice.first, twice.span) == (once.first, once.span)
    assert twice.record["body"]["until"] == once.record["body"]["until"]
    for name, stats in once.record["body"]["series"]["host"].items():
        again = twice.record["body"]["series"]["host"][name]
        assert (again[0], again[1], again[3]) == (stats[0], stats[1], stats[3])
        assert abs(again[2] - stats[2]) <= 1e-4 * stats[2]


def test_a_gap_says_what_it_stands_for_and_stays_counted_when_coarsened() -> None:
    found = gap(3, 9, at(0))
    assert (found.first, found.span, found.upto) == (3, 7, 9)
    assert found.record["body"] == {"why": "budget", "records": 7}
    one = coarsen([found, entry(10, 1, load=1.0)], 60)
    assert (one.span, one.record["body"]["missing"]) == (8, 7)


def test_a_record_whose_body_is_no_table_is_counted_and_says_nothing() -> None:
    one = coarsen([Entry(1, 1, {"at": at(0), "kind": "k", "body": "text"})], 60)
    assert (one.span, one.record["body"]["series"]) == (1, {})
