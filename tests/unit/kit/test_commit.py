"""Effects share a commit, and nothing else: not their failures, not their fate."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database, Migrations

from appliance.errors import NoSpaceError, NotFoundError, StateUnusableError
from appliance.kit import commit
from appliance.kit.commit import GroupCommit
from tests.helpers.disk import fill

migrations = Migrations("test")
DEADLINE_S = 10


@migrations()
def m001_numbers(db: Database) -> None:
    db.table("numbers").create({"n": int, "filling": bytes}, pk="n", strict=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GroupCommit]:
    opened = GroupCommit(tmp_path / "x.db", migrations)
    yield opened
    opened.close()


def put(number: int, size: int = 0) -> Callable[[sqlite3.Connection], int]:
    def effect(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO numbers VALUES (?, ?)", (number, bytes(size)))
        return number

    return effect


def then(number: int, error: Exception) -> Callable[[sqlite3.Connection], int]:
    def effect(db: sqlite3.Connection) -> int:
        put(number)(db)
        raise error

    return effect


def held(store: GroupCommit) -> list[int]:
    rows = store.read(lambda db: db.execute("SELECT n FROM numbers ORDER BY n").fetchall())
    return [row["n"] for row in rows]


@contextmanager
def held_up(store: GroupCommit) -> Iterator[Future[None]]:
    """Keep the writer busy with an effect for as long as the block runs."""
    began, go = threading.Event(), threading.Event()

    def busy(_: sqlite3.Connection) -> None:
        began.set()
        assert go.wait(DEADLINE_S)

    first = store.submit(busy)
    assert began.wait(DEADLINE_S)
    yield first
    go.set()
    first.result(DEADLINE_S)


def together(
    store: GroupCommit, *effects: Callable[[sqlite3.Connection], Any]
) -> list[Future[Any]]:
    """Hand in effects while the writer is busy, so that they share one commit."""
    with held_up(store):
        return [store.submit(effect) for effect in effects]


def test_a_result_comes_once_the_effect_can_be_read(store: GroupCommit) -> None:
    assert store.submit(put(1)).result(DEADLINE_S) == 1
    assert held(store) == [1]


@pytest.mark.parametrize(
    "bad",
    [
        then(2, ValueError("no")),
        then(2, NotFoundError("no such thing")),
        put(1),  # a constraint
        lambda db: db.execute("SELECT nothing FROM nowhere"),
    ],
)
def test_the_neighbours_of_a_failing_effect_are_kept(
    store: GroupCommit, bad: Callable[[sqlite3.Connection], Any]
) -> None:
    before, failing, after = together(store, put(1), bad, put(3))
    assert failing.exception(DEADLINE_S) is not None
    assert [before.result(DEADLINE_S), after.result(DEADLINE_S)] == [1, 3]
    assert held(store) == [1, 3]


def test_effects_that_arrive_during_a_commit_share_the_next(store: GroupCommit) -> None:
    commits = []
    store.on_commit = lambda: commits.append(held(store))
    for future in together(store, *(put(n) for n in range(5))):
        future.result(DEADLINE_S)
    store.close()
    assert commits == [[], [0, 1, 2, 3, 4]]


def test_an_effect_that_nobody_wants_any_more_is_not_carried_out(store: GroupCommit) -> None:
    with held_up(store) as busy:
        unwanted, wanted = store.submit(put(1)), store.submit(put(2))
        assert unwanted.cancel()
        assert not busy.cancel()
    wanted.result(DEADLINE_S)
    assert held(store) == [2]
    with pytest.raises(CancelledError):
        unwanted.result(DEADLINE_S)


def test_many_threads_lose_nothing_and_get_their_own_results(store: GroupCommit) -> None:
    wrong: list[int] = []

    def is_kept(number: int) -> bool:
        return store.submit(put(number)).result(DEADLINE_S) == number and number in held(store)

    def work(first: int) -> None:
        wrong.extend(number for number in range(first, first + 25) if not is_kept(number))

    threads = [threading.Thread(target=work, args=(n * 100,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(held(store)) == 200


def test_a_full_disk_is_told_to_all_and_the_writer_goes_on(small_disk: Path) -> None:
    store = GroupCommit(small_disk / "x.db", migrations)
    store.submit(put(0)).result(DEADLINE_S)
    filler = fill(small_disk)
    for future in together(store, put(1, 200_000), put(2), put(3)):
        with pytest.raises(NoSpaceError, match="no space left"):
            future.result(DEADLINE_S)
    filler.unlink()
    assert store.submit(put(4)).result(DEADLINE_S) == 4
    assert held(store) == [0, 4]
    store.close()


def test_closing_commits_what_was_handed_in(tmp_path: Path) -> None:
    store = GroupCommit(tmp_path / "x.db", migrations)
    futures = [store.submit(put(n)) for n in range(700)]  # more than one commit takes
    store.close()
    store.close()
    assert all(future.done() for future in futures)
    again = GroupCommit(tmp_path / "x.db", migrations)
    assert len(held(again)) == 700
    again.close()


def test_who_comes_after_the_end_is_told_so_and_does_not_wait_for_ever(store: GroupCommit) -> None:
    store.close()
    with pytest.raises(StateUnusableError, match="is closed"):
        store.submit(put(1)).result(DEADLINE_S)


def test_a_listener_that_fails_does_not_end_the_writer(
    store: GroupCommit, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("Event loop is closed")

    store.on_commit = fail
    store.submit(put(1)).result(DEADLINE_S)
    assert store.submit(put(2)).result(DEADLINE_S) == 2
    store.close()
    assert "Event loop is closed" in caplog.text


def test_a_reader_cannot_write(store: GroupCommit) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.read(put(1))


def test_a_commit_waits_for_as_many_as_shared_the_last_ones(
    store: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_WINDOW_S", DEADLINE_S)
    commits: list[int] = []
    store.on_commit = lambda: commits.append(len(held(store)))
    with held_up(store):
        together = [store.submit(put(n)) for n in range(4)]
    for done in together:
        done.result(DEADLINE_S)
    again = [store.submit(put(4))]
    time.sleep(0.05)  # long enough for a commit of its own, were it not waited for the others
    again += [store.submit(put(n)) for n in (5, 6, 7)]
    for done in again:
        done.result(DEADLINE_S)
    assert held(store) == list(range(8))
    assert 5 not in commits, "the fifth came with those after it"


def test_who_is_alone_or_comes_after_a_pause_is_not_made_to_wait() -> None:
    crowd = commit._Crowd()
    assert crowd.expected(100.0) == 0
    crowd.committed(3, 100.0)
    assert crowd.expected(100.001) == 0, "a few are no crowd"
    for at, count in ((100.002, 8), (100.003, 1)):
        crowd.committed(count, at)
    assert crowd.expected(100.004) == 8, "one that came too late is no sign that they went"
    crowd.committed(1, 100.005)
    assert crowd.expected(100.006) == 0
    crowd.committed(8, 100.007)
    assert crowd.expected(100.007 + 2 * commit._WINDOW_S) == 0
