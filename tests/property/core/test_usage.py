"""However a spool is read, each request comes out exactly once."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from appliance.core import usage
from appliance.core.usage import Outcome, UsageRecord


@dataclass(frozen=True, slots=True)
class Spool:
    """What a gateway left when it died, and how each of its requests ended."""

    data: bytes
    outcomes: dict[str, str]


@st.composite
def spools(draw: st.DrawFn) -> Spool:
    requests = draw(st.integers(0, 6))
    order = draw(st.permutations([n for n in range(requests) for _ in range(2)]))
    lines: list[tuple[str, bytes]] = []
    seen: set[int] = set()
    for number in order:  # the first time it begins, the second time it ends
        record = UsageRecord(
            str(number), "2026-12-01T08:00:00Z", "r", "/v1", "m", None, stream=True
        )
        if number in seen:
            lines.append((record.id, usage.end_line(replace(record, outcome=Outcome.OK))))
        else:
            seen.add(number)
            lines.append((record.id, usage.begin_line(record)))
    data = b"".join(line for _, line in lines)
    data = data[: draw(st.integers(0, len(data)))]  # killed at any byte
    outcomes: dict[str, str] = {}
    position = 0
    for name, line in lines:
        position += len(line)
        if position <= len(data):
            outcomes[name] = "ok" if name in outcomes else "cut"
    return Spool(data, outcomes)


@given(spools(), st.lists(st.floats(0, 1), max_size=6), st.integers(1, 3))
def test_each_record_comes_out_once_and_a_begin_without_an_end_is_cut(
    spool: Spool, looks: list[float], last_looks: int
) -> None:
    records: list[dict[str, object]] = []
    offset = 0
    for share in sorted(looks):
        taken = usage.take(spool.data[: int(share * len(spool.data))], offset, finished=False)
        records.extend(taken.records)
        offset = taken.offset
    for _ in range(last_looks):  # the taker may be killed before it removes what it took
        taken = usage.take(spool.data, offset, finished=True)
        records.extend(taken.records)
        offset = taken.offset
    found = [(str(record["id"]), record["outcome"]) for record in records]
    assert sorted(found) == sorted(spool.outcomes.items())
