"""One queue: first come, first served, and nobody twice at once."""

import threading
import time
from pathlib import Path

import pytest

from appliance.bundle.media.queue import Entry, ImportQueue
from appliance.kit.files import locked


@pytest.fixture
def queue(tmp_path: Path) -> ImportQueue:
    return ImportQueue(tmp_path / ".lock")


def test_turns_come_in_the_order_of_asking(queue: ImportQueue) -> None:
    went_on, done = threading.Event(), list[str]()

    def take(entry: Entry) -> None:
        with queue.turn(entry):
            went_on.wait(10)
            done.append(entry.name)

    threads = []
    for number, name in enumerate(["stick A", "https://server", "stick B"]):
        thread = threading.Thread(target=take, args=(Entry(name, "uid 0"),))
        thread.start()
        threads.append(thread)
        while len(queue.entries()) <= number:
            time.sleep(0.001)
    assert [entry.name for entry in queue.entries()] == ["stick A", "https://server", "stick B"]
    assert queue.is_busy()
    went_on.set()
    for thread in threads:
        thread.join(10)
    assert done == ["stick A", "https://server", "stick B"]
    assert not queue.is_busy()


def test_an_import_that_fails_gives_its_turn_away(queue: ImportQueue) -> None:
    with pytest.raises(ZeroDivisionError), queue.turn(Entry("a", "b")):
        raise ZeroDivisionError
    assert queue.entries() == []


def test_another_process_is_waited_for(queue: ImportQueue, tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", what="it"):
        assert queue.is_busy()
    assert not queue.is_busy()
