"""An engine may say, write and log anything; whoever reads it goes on."""

import contextlib
import tempfile
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from appliance.core import wire
from appliance.core.model import Replica
from appliance.errors import ApplianceError
from appliance.kit.proc import ProcessId
from appliance.runtime import health, logfile
from appliance.runtime.record import EngineRecord
from tests.helpers.models import variant
from tests.helpers.strategies import damaged

RECORD = EngineRecord(
    Replica("small-0", "small", variant(), "llama-cpp", 2048, 2, 1 << 29),
    ProcessId(4711, 815),
    "llama-server",
    ("own user",),
    (),
    "cgroup v2",
    61184,
)
NUMBER_LIKE = st.text("0123456789.e+-NaIinf_ \t", max_size=20)


@given(st.binary(max_size=64), st.binary(max_size=16))
@example(b"HTTP/1.1 99999999999999999999", b"")
def test_any_bytes_are_an_answer_or_none(head: bytes, body: bytes) -> None:
    for data in (head, b"HTTP/1.1 " + head, head + b"\r\n\r\n" + body):
        found = health._parse(data)
        assert found is None or found.status >= 0


@given(st.lists(st.tuples(st.sampled_from(["busy", "held", "other", "# busy"]), NUMBER_LIKE)))
@example([("busy", "e")])
@example([("busy", "9e999")])
def test_any_metrics_give_a_number_or_none(samples: list[tuple[str, str]]) -> None:
    text = "".join(f"{name} {number}\n" for name, number in samples)
    found = health.parse_busy(text, ("busy", "held"))
    assert found is None or found >= 0


@given(damaged(wire.loads(RECORD.dump(), what="it")))
def test_a_damaged_record_is_read_or_refused_as_promised(data: object) -> None:
    with contextlib.suppress(ApplianceError, KeyError, TypeError):
        process = EngineRecord.load(wire.dumps(data)).process
        process.is_alive()


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_log_is_safe_to_print(data: bytes, lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        log.write_bytes(data)
        found = logfile.tail(log, lines)
    assert len(found) <= lines
    assert all(line.isprintable() for line in found)
