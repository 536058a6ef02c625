"""A controller that comes back finds what runs, and believes a lock more than a file."""

import os
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.core.model import Replica
from appliance.errors import ApplianceError, StateUnusableError
from appliance.kit.files import locked
from appliance.kit.proc import identify
from appliance.runtime import record
from appliance.runtime.record import EngineRecord
from tests.helpers.models import variant

REPLICA = Replica("small-0", "small", variant(), "llama-cpp", 2048, 2, 1 << 29)
MYSELF = identify(os.getpid())
assert MYSELF is not None
RECORD = EngineRecord(
    REPLICA, MYSELF, "llama-server", ("no new privileges",), ("own user (no root)",), "watchdog",
    None,
)  # fmt: skip


def write(state: Path, found: EngineRecord) -> Path:
    path = record.paths(state, found.replica.id).record
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.dump())
    return path


def test_a_record_survives_its_file() -> None:
    assert EngineRecord.load(RECORD.dump()) == RECORD


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "self"}, {"pid": None}, {"start": "0"}, {"replica": "x"}, {"replica": []},
        {"replica": {"variant": "x"}}, {"replica": {"variant": 7}}, {"holds": None}, {"missing": 1},
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_as_promised(changes: dict[str, object]) -> None:
    # An engine that is hostile can write what it likes into the record that it holds open.
    data = wire.dumps({**wire.loads(RECORD.dump(), what="it"), **changes})
    with pytest.raises((ApplianceError, KeyError, TypeError)):
        EngineRecord.load(data)


def test_an_engine_runs_while_its_record_is_locked_and_its_process_alive(tmp_path: Path) -> None:
    path = write(tmp_path, RECORD)
    assert list(record.running(tmp_path)) == []
    with locked(path, what="it"):
        assert list(record.running(tmp_path)) == [RECORD]
        gone = replace(RECORD.process, start=RECORD.process.start - 1)
        write(tmp_path, replace(RECORD, process=gone))
        assert list(record.running(tmp_path)) == []


@pytest.mark.parametrize("data", [b"", b"\xff", b"{}", b"[]", RECORD.dump()[:-1]])
def test_a_record_that_is_not_complete_hides_no_other(tmp_path: Path, data: bytes) -> None:
    other = write(tmp_path, replace(RECORD, replica=replace(REPLICA, id="a-first")))
    other.write_bytes(data)
    with locked(other, what="it"), locked(write(tmp_path, RECORD), what="it"):
        assert list(record.running(tmp_path)) == [RECORD]


def test_nothing_runs_in_a_state_folder_that_is_not_there(tmp_path: Path) -> None:
    assert list(record.running(tmp_path / "none")) == []


def test_replicas_do_not_share_a_folder() -> None:
    found = [record.paths(Path("/s"), f"chat-{n}") for n in range(100)]
    assert len({paths.socket for paths in found}) == 100
    assert {paths.record.name for paths in found} == {f"chat-{n}.json" for n in range(100)}


def longest_state(letter: str) -> int:
    """Return how many letters a state folder's name may have before it is refused."""
    for length in range(1, 200):
        try:
            record.paths(Path("/" + letter * length), "chat-0")
        except StateUnusableError:
            return length - 1
    raise AssertionError("no name is too long")


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_state_folder_is_refused_just_where_the_kernel_would_refuse_its_sockets(
    letter: str,
) -> None:
    path = record.paths(Path("/" + letter * longest_state(letter)), "chat-0").socket
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError):  # so its length would do
            sock.bind(str(path))
        with pytest.raises(OSError, match="too long"):
            sock.bind(f"/{letter}{path}")


def test_the_length_that_the_hint_names_is_enough() -> None:
    with pytest.raises(StateUnusableError) as caught:
        record.paths(Path("/" + "x" * 200), "chat-0")
    length = int(re.findall(r"\d+", str(caught.value.hint))[0])
    assert length <= longest_state("x") + 1
