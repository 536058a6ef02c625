"""A node that cannot know the time asks for it: once, and again when the answer has aged."""

import asyncio
import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from appliance.kit.loop import Again
from appliance.ledger import meta, receipts
from appliance.ledger.db import Ledger
from appliance.node.asking import TimeAsker
from appliance.trust import floor
from tests.helpers.waiting import StillClock

DAY = 24 * 3600.0


class Asking:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "node.db")
        self.clock = StillClock()
        self.asked = 0
        self.asker = TimeAsker(self.ledger, self.clock, self._ask)

    def _ask(self) -> None:
        self.asked += 1
        self.ledger.record(receipts.ask_for_time).result()

    def look(self) -> int:
        assert asyncio.run(self.asker.look()) == Again(60.0)
        return self.asked

    def answer(self, at: datetime.datetime) -> None:
        nonce = self.ledger.read(receipts.nonce)
        assert nonce is not None
        assert self.ledger.record(partial(receipts.use_nonce, answered=nonce)).result()
        self.ledger.record(lambda db: meta.add_online_time(db, "key", at)).result()


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[Asking]:
    made = Asking(tmp_path)
    yield made
    made.ledger.close()


def test_who_knows_the_time_does_not_ask(asking: Asking) -> None:
    assert asking.look() == 0


@pytest.mark.parametrize("year", [1970, 2038])
def test_who_cannot_know_asks_once_and_anew_a_day_after_the_answer(
    asking: Asking, year: int
) -> None:
    asking.clock.time = asking.clock.time.replace(year=year)
    assert (asking.look(), asking.look()) == (1, 1)
    asking.clock.move(30 * DAY)
    assert asking.look() == 1, "the question waits, for a year if it must"
    asking.answer(floor.BUILT + datetime.timedelta(days=1))
    assert asking.look() == 2
    asking.answer(floor.BUILT + datetime.timedelta(days=2))
    asking.clock.move(DAY / 2)
    assert asking.look() == 2
    asking.clock.move(DAY / 2)
    assert asking.look() == 3


def test_a_question_that_found_no_room_is_asked_again(asking: Asking) -> None:
    asking.clock.time = asking.clock.time.replace(year=1970)
    full = TimeAsker(asking.ledger, asking.clock, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(full.look())
    with pytest.raises(ZeroDivisionError):
        asyncio.run(full.look())
