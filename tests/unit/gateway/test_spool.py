"""Facts reach the disk once and whole; on a full disk they wait, and serving goes on."""

import asyncio
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.core import wire
from appliance.core.usage import Outcome, UsageRecord
from appliance.errors import StateUnusableError
from appliance.gateway import spool as module
from appliance.gateway.spool import OpenUsage, UsageSpool
from appliance.kit.files import is_locked
from tests.helpers.waiting import until

Story = Callable[[UsageSpool], Awaitable[None]]


def record(name: str = "a", padding: int = 0) -> UsageRecord:
    return UsageRecord(name, "now", "x" * padding, "/v1/completions", None, None, stream=False)


def end(usage: OpenUsage, name: str = "a") -> None:
    usage.end(replace(record(name), outcome=Outcome.OK))


def run(folder: Path, story: Story) -> None:
    async def whole() -> None:
        spool = UsageSpool(folder)
        try:
            await story(spool)
        finally:
            spool.close()

    asyncio.run(whole())


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("usage-*.jsonl"))


def lines(folder: Path) -> list[tuple[str, str]]:
    """Return phase and id of every fact on disk, file by file."""
    found = [
        wire.loads(line, what="a fact")
        for path in files(folder)
        for line in path.read_bytes().splitlines()
    ]
    return [(f["phase"], f["record"]["id"]) for f in found]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Let no file grow beyond ``room`` bytes, as a full disk would, in the middle of a line too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_fact_is_on_disk_before_anything_else_happens(tmp_path: Path) -> None:
    async def story(spool: UsageSpool) -> None:
        usage = spool.begin(record())
        assert lines(tmp_path) == [("begin", "a")]
        end(usage)
        assert lines(tmp_path) == [("begin", "a"), ("end", "a")]

    run(tmp_path, story)


def test_the_file_is_held_while_the_gateway_lives(tmp_path: Path) -> None:
    async def story(_: UsageSpool) -> None:
        (path,) = files(tmp_path)
        assert is_locked(path)
        assert path.stat().st_mode & 0o777 == 0o640

    run(tmp_path, story)
    (path,) = files(tmp_path)
    assert not is_locked(path)


def test_facts_are_made_to_survive_a_power_cut_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)

    async def story(spool: UsageSpool) -> None:
        for _ in range(20):
            end(spool.begin(record()))
        await until(lambda: synced)
        assert len(synced) == 1, "one sync for many requests"

    run(tmp_path, story)


def test_a_full_file_is_followed_by_another_and_let_go_when_its_last_request_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROTATE_BYTES", 1000)

    async def story(spool: UsageSpool) -> None:
        first, second = (spool.begin(record(name, padding=1000)) for name in "ab")
        third = spool.begin(record("c"))
        end(second, "b")
        assert [is_locked(f) for f in files(tmp_path)] == [True, False, True]
        end(first, "a")
        end(third, "c")
        assert [is_locked(f) for f in files(tmp_path)] == [False, False, True]

    run(tmp_path, story)
    assert lines(tmp_path) == [(p, n) for n in "abc" for p in ("begin", "end")]


def test_on_a_full_disk_facts_wait_in_memory_in_their_order(tmp_path: Path) -> None:
    async def story(spool: UsageSpool) -> None:
        usage = spool.begin(record("a"))
        size = files(tmp_path)[0].stat().st_size
        with full_disk(size + 50):
            end(usage, "a")
            usage = spool.begin(record("b"))
            end(usage, "b")
            assert lines(tmp_path) == [("begin", "a")], "half a line is taken back"
        end(spool.begin(record("c")), "c")
        assert lines(tmp_path) == [(p, n) for n in "abc" for p in ("begin", "end")]

    run(tmp_path, story)


def test_what_waits_is_written_when_the_gateway_ends(tmp_path: Path) -> None:
    async def story(spool: UsageSpool) -> None:
        with full_disk(10):
            end(spool.begin(record("a")))
            assert lines(tmp_path) == []

    run(tmp_path, story)
    assert lines(tmp_path) == [("begin", "a"), ("end", "a")]


def test_what_waits_for_an_old_file_is_written_to_it_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor that is closed too early is soon somebody's connection."""
    monkeypatch.setattr(module, "_ROTATE_BYTES", 100)

    async def story(spool: UsageSpool) -> None:
        usage = spool.begin(record("a"))
        (old,) = files(tmp_path)
        with full_disk(old.stat().st_size):
            end(usage, "a")
        usage = spool.begin(record("b"))
        assert lines(tmp_path) == [("begin", "a"), ("end", "a"), ("begin", "b")]
        end(usage, "b")
        assert [is_locked(f) for f in files(tmp_path)] == [False, True]

    run(tmp_path, story)


def test_when_too_many_wait_the_oldest_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 4)

    async def story(spool: UsageSpool) -> None:
        with full_disk(10):
            for name in "abcd":
                end(spool.begin(record(name)), name)

    run(tmp_path, story)
    assert lines(tmp_path) == [(p, n) for n in "cd" for p in ("begin", "end")]
    assert caplog.text.count("a usage fact is lost") == 4


def test_a_disk_that_takes_no_new_file_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROTATE_BYTES", 100)

    async def story(spool: UsageSpool) -> None:
        end(spool.begin(record("a")))
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", _no_space)
            for _ in range(5):
                end(spool.begin(record("b")), "b")
        assert descriptors() == before

    run(tmp_path, story)
    assert len(list(tmp_path.iterdir())) == 1
    assert len(lines(tmp_path)) == 12


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "spool").write_bytes(b"")
    with pytest.raises(StateUnusableError, match="usage spool"):
        UsageSpool(tmp_path / "spool")
